"""How much of the HSI's fine detail the guide tells in a scene of few pixels: each by what the others say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve

from hsfuse.fusion.base import LowResolutionStrip

FloatMatrix = NDArray[np.float64]
_BINOMIAL = np.outer([1.0, 4.0, 6.0, 4.0, 1.0], [1.0, 4.0, 6.0, 4.0, 1.0]) / 256.0
_RIDGE = 1e-6
_MOST_LEVERAGE = 0.999
_NOTHING = 1e-12
"""Share of the bands' mean detail below which a band has none."""


def explained_detail_db(strips: Sequence[LowResolutionStrip]) -> float | None:
    """How far a regression on the guide's detail leaves less of the HSI's detail than there is, decibels.

    What a 5 x 5 binomial smoother takes away is regressed on that of all bands of the guide; each pixel's residual is
    that of a regression without it (leave-one-out, by the leverage of the pixels). The mean over the bands, as in the
    peak signal-to-noise ratio: below 0 where the guide tells nothing.

    Parameters
    ----------
    strips
        The scene at low resolution.

    Returns
    -------
    float or None
        None where nothing is measured or the HSI has no detail.
    """
    hsi, msi = (
        np.concatenate([_detail(image, strip.valid) for image, strip in pairs], axis=1)
        for pairs in ([(s.hsi, s) for s in strips], [(s.msi, s) for s in strips])
    )
    spread = msi.std(axis=1)
    guide = (msi[spread > 0] / spread[spread > 0, None]).T
    power = (hsi**2).mean(axis=1) if hsi.shape[1] else np.zeros(len(hsi))
    shown = power > _NOTHING * power.mean()
    if not shown.any():
        return None
    inverse = np.linalg.inv(guide.T @ guide + _RIDGE * len(guide) * np.eye(guide.shape[1]))
    weights = guide @ inverse
    left = hsi[shown].T - weights @ (guide.T @ hsi[shown].T)
    leverage = np.minimum((weights * guide).sum(axis=1), _MOST_LEVERAGE)
    left /= (1.0 - leverage)[:, None]
    return float((10.0 * np.log10(power[shown] / np.maximum((left**2).mean(axis=0), _NOTHING * power[shown]))).mean())


def _detail(image: NDArray[np.floating], valid: NDArray[np.bool_]) -> FloatMatrix:
    """What smoothing takes away from valid pixels, by valid pixels alone; shape (band, pixel)."""
    weight = np.maximum(convolve(valid.astype(np.float64), _BINOMIAL, mode="constant"), 1e-9)
    found = np.empty((len(image), int(valid.sum())))
    for own, band in zip(found, np.where(valid, image, 0.0).astype(np.float64), strict=True):
        own[:] = (band - convolve(band, _BINOMIAL, mode="constant") / weight)[valid]
    return found
