"""Noise of the multispectral image at its own resolution, measured on the scene.

Noise is independent from band to band, texture mostly is not. In small windows the high-pass detail of every band is
regressed on that of the other bands; what is left is noise plus the texture that only this band has. The quietest
windows tell the noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, uniform_filter

WINDOW_PX = 7
_QUANTILE = 0.05
_BIAS = {1: 0.71, 2: 0.687, 3: 0.664, 4: 0.635}
"""That quantile of the residual's deviation for white noise of unit deviation, by number of bands."""
_MAX_OVER_OTHERS = 1.5
"""A band's noise relative to its level is at most so many times the middle band's: only vegetation's near infrared has
so much texture of its own that it passes for noise."""
_BLOCK_PX, _BLOCKS, _LEAST_SAMPLES = 96, 8, 100
_KERNEL = np.outer((1.0, -2.0, 1.0), (1.0, -2.0, 1.0)) / 6.0
"""Second differences in both directions, with unit gain for white noise."""


def noise_samples(msi: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measure an image, or a strip of a large one, in a few blocks.

    Parameters
    ----------
    msi
        Shape (msi band, row, col); values where ``usable`` is False do not matter.
    usable
        Shape (row, col).

    Returns
    -------
    numpy.ndarray
        Residual variance and mean square of the values in windows, shape (window, 2, msi band); may be empty.
    """
    rows, cols = usable.shape
    blocks = [
        (slice(row, row + _BLOCK_PX), slice(col, col + _BLOCK_PX))
        for row in range(0, max(rows - _BLOCK_PX // 2, 1), _BLOCK_PX)
        for col in range(0, max(cols - _BLOCK_PX // 2, 1), _BLOCK_PX)
    ]
    share = [float(usable[block].mean()) for block in blocks]
    blocks = [block for block, part in zip(blocks, share, strict=True) if part > 0.5]
    if len(blocks) > _BLOCKS:
        blocks = [blocks[i] for i in np.linspace(0, len(blocks) - 1, _BLOCKS).round().astype(int)]
    found = [_block_samples(msi[:, *block], usable[block]) for block in blocks]
    return np.concatenate(found) if found else np.empty((0, 2, msi.shape[0]), np.float32)


def _block_samples(msi: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.float32]:
    count = msi.shape[0]
    image = np.where(usable, msi, 0.0).astype(np.float64)
    detail = np.stack([convolve(band, _KERNEL, mode="nearest") for band in image])
    clean = uniform_filter(usable.astype(np.float64), WINDOW_PX + 2, mode="constant") > 1.0 - 1e-6
    inner = (slice(WINDOW_PX // 2, None, WINDOW_PX // 2), slice(WINDOW_PX // 2, None, WINDOW_PX // 2))
    keep = clean[inner].ravel()
    gram = np.empty((int(keep.sum()), count, count))
    for i in range(count):
        for j in range(i + 1):
            local = uniform_filter(detail[i] * detail[j], WINDOW_PX)[inner].ravel()[keep]
            gram[:, i, j] = gram[:, j, i] = local
    power = np.stack([uniform_filter(band**2, WINDOW_PX)[inner].ravel()[keep] for band in image], axis=1)
    trace = np.trace(gram, axis1=1, axis2=2)
    # Constant windows (saturated pixels, filled gaps) hold no noise to measure.
    alive = (np.einsum("nii->ni", gram) > 1e-14).all(axis=1)
    loaded = gram[alive] + (1e-9 * trace[alive] / count)[:, None, None] * np.eye(count)
    left = 1.0 / np.einsum("nii->ni", np.linalg.inv(loaded))
    return np.stack([left, power[alive]], axis=1).astype(np.float32)


def noise_from_samples(samples: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Turn the samples of a scene into the noise of every band.

    Parameters
    ----------
    samples
        From :func:`noise_samples`, of all strips together.

    Returns
    -------
    numpy.ndarray
        Standard deviation, shape (msi band,); None when there are too few samples.
    """
    if len(samples) < _LEAST_SAMPLES:
        return None
    values = samples.astype(np.float64)
    bias = _BIAS.get(samples.shape[2], _BIAS[4])
    noise = np.sqrt(np.quantile(values[:, 0], _QUANTILE, axis=0)) / bias
    level = np.maximum(np.sqrt(values[:, 1].mean(axis=0)), 1e-6)
    relative = noise / level
    return np.asarray(np.minimum(relative, _MAX_OVER_OTHERS * np.median(relative)) * level)
