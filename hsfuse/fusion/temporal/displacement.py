"""Displacement of a partner beside the guide, below a pixel, and its resampling to where the guide is.

Dates of one tile lie on one grid, and on each other to some tenths of a pixel. One displacement for the scene is found
by Gauss-Newton steps on a few windows; what differs from place to place weighs less by its residual later on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from hsfuse.degrade import NO_OFFSET, Offset

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]

REACH_PX = 4
"""Rows and columns around a pixel that its resampling looks at."""
MOST_PX = 1.0
"""A larger displacement is none of two dates of one tile."""
LEAST_PX = 0.03
"""A smaller one costs less than resampling."""
_STEPS = 4
_GAIN = 0.99
"""The residual must fall to this share of what it was."""
_TUKEY = 4.685
_MAD_TO_SIGMA = 1.4826
_LOBES = 3


def lanczos(offset_px: float) -> FloatArray:
    """Weights of the pixels ``-3 .. 3`` around one for the value ``offset_px`` (-1 to 1) towards larger index."""
    at = np.arange(-REACH_PX, REACH_PX + 1) - offset_px
    weights = np.where(np.abs(at) < _LOBES, np.sinc(at) * np.sinc(at / _LOBES), 0.0)
    return np.asarray(weights / weights.sum())


def displaced(image: FloatCube, offset_px: Offset) -> FloatCube:
    """Resample (band, row, col): pixels of the result show what lies ``offset_px`` (row, col) further on."""
    down, across = (lanczos(offset).astype(np.float32) for offset in offset_px)
    return np.asarray(correlate1d(correlate1d(image, down, axis=-2, mode="nearest"), across, axis=-1, mode="nearest"))


def noise_left(offset_px: Offset) -> float:
    """Share of the variance of white noise that :func:`displaced` leaves."""
    return float(np.prod([(lanczos(offset) ** 2).sum() for offset in offset_px]))


def find_displacement(pairs: Sequence[tuple[FloatCube, FloatCube]]) -> Offset:
    """Find where windows of a joined partner show what those of the guide show.

    Parameters
    ----------
    pairs
        Guide and joined partner, each of shape (band, row, col), NaN where either is not clear.

    Returns
    -------
    Offset
        For :func:`displaced`; zeros where none is found or none is of use.
    """
    pairs = [pair for pair in pairs if np.isfinite(pair[1]).all(axis=0).any()]
    if not pairs:
        return NO_OFFSET
    offset = np.zeros(2)
    first, last = 0.0, 0.0
    for step in range(_STEPS + 1):
        normal, right, loss, count = np.zeros((2, 2)), np.zeros(2), 0.0, 0.0
        for guide, partner in pairs:
            found = _normal_equations(guide, partner, (float(offset[0]), float(offset[1])))
            normal, right, loss, count = normal + found[0], right + found[1], loss + found[2], count + found[3]
        last = loss / max(count, 1.0)
        first = last if step == 0 else first
        if step == _STEPS or np.linalg.cond(normal) > 1e6:
            break
        offset = offset + np.linalg.solve(normal, right)
        if np.abs(offset).max() > MOST_PX:
            return NO_OFFSET
    useful = np.abs(offset).max() >= LEAST_PX and last <= _GAIN * first
    return (float(offset[0]), float(offset[1])) if useful else NO_OFFSET


def _normal_equations(
    guide: FloatCube, partner: FloatCube, offset_px: Offset
) -> tuple[FloatArray, FloatArray, float, float]:
    """Weighted sums of a Gauss-Newton step, and the loss with its weight."""
    known = np.isfinite(partner).all(axis=0) & np.isfinite(guide).all(axis=0)
    filled = np.where(known, partner, np.float32(0.0))
    shown = filled if offset_px == NO_OFFSET else displaced(filled, offset_px)
    inner = correlate1d(
        correlate1d(known.astype(np.float32), np.ones(2 * REACH_PX + 3), axis=0, mode="nearest"),
        np.ones(2 * REACH_PX + 3), axis=1, mode="nearest",
    ) > (2 * REACH_PX + 3) ** 2 - 0.5  # fmt: skip
    if not inner.any():
        return np.zeros((2, 2)), np.zeros(2), 0.0, 0.0
    along = (np.gradient(shown.astype(np.float64), axis=axis) for axis in (1, 2))
    slopes = np.stack([np.asarray(slope)[:, inner] for slope in along])
    left = (np.where(known, guide, 0.0) - shown)[:, inner].astype(np.float64)
    sigma = np.maximum(_MAD_TO_SIGMA * np.median(np.abs(left), axis=1, keepdims=True), 1e-6)
    distance = np.sqrt(((left / sigma) ** 2).mean(axis=0)) / _TUKEY
    weight = np.where(distance < 1.0, (1.0 - np.minimum(distance, 1.0) ** 2) ** 2, 0.0) / sigma**2
    normal = np.einsum("ibp,jbp,bp->ij", slopes, slopes, weight)
    right = np.einsum("ibp,bp,bp->i", slopes, left, weight)
    # Every step is judged on the same pixels with equal weights by all bands: the typical residual.
    loss = float((np.minimum(np.abs(left), _TUKEY * sigma) / np.abs(guide[:, inner]).mean()).sum())
    return normal, right, loss, float(left.size)
