"""Whether two images hold the same noise: one measurement processed twice, resampled, or given twice, is no second one.

Of two measurements of the same ground the finest detail of the difference holds the noise of both, and change adds to
it. Where there is much less, part of the noise is in both, and averaging them would take out nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from hsfuse.fusion.temporal.combination import NOISE_SHARE, finest_detail

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]

_MEDIAN_OF_SQUARE = 0.4549
"""Median of the square of a standard normal variable."""
_SPLINE_PX = 5
_LEAST_PX = 100
_TOO_ALIKE = 0.5
"""Noise of the difference over that of both images, below which they share theirs. Half of it is left where one image
has all the noise; a second measurement stands near 1."""
_TINY = 1e-16


@dataclass(frozen=True)
class Measurement:
    """What an image shows in some windows of a scene.

    Attributes
    ----------
    name
        Of the image.
    windows
        Cubes of shape (band, row, col), NaN where they do not show the ground clearly.
    noise
        Variance, shape (band,).
    """

    name: str
    windows: Sequence[FloatCube]
    noise: FloatArray


def difference_noise(first: Measurement, second: Measurement) -> float | None:
    """Noise of the difference of two images over that of both, median over the bands.

    Parameters
    ----------
    first, second
        In the same windows and colours.

    Returns
    -------
    float or None
        About 1 for two measurements, 0 for one given twice; None where they share too few clear pixels.
    """
    squares = []
    for one, other in zip(first.windows, second.windows, strict=True):
        difference = one - other
        clear = np.isfinite(difference).all(axis=0)
        inner = minimum_filter(clear, _SPLINE_PX, mode="nearest")
        detail = finest_detail(np.where(clear, difference, np.float32(0.0)))
        squares.append(np.square(detail[:, inner], dtype=np.float64))
    joined = np.concatenate(squares, axis=1)
    if joined.shape[1] < _LEAST_PX:
        return None
    found = np.median(joined, axis=1) / (_MEDIAN_OF_SQUARE * NOISE_SHARE)
    return float(np.median(found / (first.noise + second.noise + _TINY)))


def same_noise(candidate: Measurement, known: Sequence[Measurement]) -> Measurement | None:
    """Return the first of some measurements that an image repeats."""
    for other in known:
        found = difference_noise(candidate, other)
        if found is not None and found < _TOO_ALIKE:
            return other
    return None
