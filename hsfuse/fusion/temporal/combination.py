"""Guide and partner as one image: inverse variance where and in what directions the ground did not change.

What is left between a joined partner and the guide is noise of both, and change. Three things tell these apart: noise
is in the finest detail (the first level of an undecimated B-spline wavelet holds four fifths of it), change mostly is
not; change lies along few directions of the bands (brightness, greenness), noise in all of them; and change has places.
So of the finest detail, along each direction, the variance is taken in a small window, and the more of it there is
beyond noise, the less the partner counts: the best linear unbiased estimate of the ground as the guide shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, uniform_filter

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SPLINE = np.array((1.0, 4.0, 6.0, 4.0, 1.0), np.float32) / 16.0
_WINDOW_PX = 5
"""Side of the windows that change is told from noise in."""
REACH_PX = len(_SPLINE) // 2 + _WINDOW_PX // 2
"""Pixels around one that decide about it."""
NOISE_SHARE = float(1.0 - 2.0 * _SPLINE[2] ** 2 + (_SPLINE**2).sum() ** 2)
"""Share of white noise that is in the finest detail."""
_OWN = 0.15
"""What a pixel's own square counts beside its window's mean: a single pixel that changed stands out of its window."""
_COST = 1.5
"""What change counts beyond noise: later steps remove noise, and change stays."""
_CLIPPED = 25.0
"""Mean squares in units of noise, beyond which samples tell directions no more loudly."""
_TINY = 1e-16


def finest_detail(image: FloatCube) -> FloatCube:
    """Return what the smoothing by a B-spline takes out of an image, shape (band, row, col)."""
    smooth = correlate1d(correlate1d(image, _SPLINE, axis=-1, mode="mirror"), _SPLINE, axis=-2, mode="mirror")
    return np.asarray(image - smooth, np.float32)


@dataclass(frozen=True)
class ChangeDirections:
    """Directions of the difference of guide and partner.

    Attributes
    ----------
    noise, partner_noise
        Variances, shape (band,).
    basis
        Orthonormal directions in units of the noise of both, columns, shape (band, band).
    """

    noise: FloatArray
    partner_noise: FloatArray
    basis: FloatArray

    @classmethod
    def find(cls, differences: FloatArray, noise: FloatArray, partner_noise: FloatArray) -> ChangeDirections:
        """Find them from samples of the difference, shape (band, sample), finite."""
        z = differences / np.sqrt(noise + partner_noise + _TINY)[:, None]
        size = (z**2).mean(axis=0)
        z = z * np.sqrt(np.minimum(1.0, _CLIPPED / np.maximum(size, _TINY)))
        return cls(noise, partner_noise, np.linalg.eigh(z @ z.T / max(z.shape[1], 1))[1])


@dataclass(frozen=True)
class Combined:
    """Result: the guide, and the variance of its noise over that of the guide as it came, shape (row, col)."""

    guide: FloatCube
    level: FloatCube


def combine(guide: FloatCube, joined: FloatCube, level: FloatCube, directions: ChangeDirections) -> Combined:
    """Combine a block of the guide with the same block of a partner.

    Parameters
    ----------
    guide
        Shape (band, row, col), finite.
    joined
        The partner, joined to the guide: the same shape, NaN where it is not clear.
    level
        Variance of the guide's noise over what it was as it came, shape (row, col).
    directions
        Of the scene.
    """
    clear = np.isfinite(joined).all(axis=0)
    difference = np.where(clear, joined - guide, np.float32(0.0))
    noise, partner = (
        variance.astype(np.float32)[:, None, None] for variance in (directions.noise, directions.partner_noise)
    )
    total = np.maximum(noise * level + partner, np.float32(_TINY))
    scale, own = 1.0 / np.sqrt(total), noise * level / total
    basis = directions.basis.astype(np.float32)
    detail = finest_detail(np.tensordot(basis.T, difference * scale, axes=1))
    square = detail**2 / np.float32(NOISE_SHARE)
    shown = np.maximum(uniform_filter(clear.astype(np.float32), _WINDOW_PX, mode="constant"), 1e-6)
    local = np.stack([uniform_filter(image, _WINDOW_PX, mode="constant") for image in square]) / shown
    divisor = 1.0 + _COST * np.maximum(np.maximum(local, _OWN * square) - 1.0, 0.0)
    step = own * np.tensordot(basis, detail / divisor, axes=1) / scale
    power = basis**2
    kept, spent = (np.tensordot(power, image, axes=1) for image in (1.0 / divisor, np.maximum(local, 1.0) / divisor**2))
    saved = NOISE_SHARE * (own * (2.0 * kept - spent)).mean(axis=0)
    return Combined(
        np.where(clear, guide + step, guide).astype(np.float32),
        np.where(clear, level * (1.0 - saved), level).astype(np.float32),
    )
