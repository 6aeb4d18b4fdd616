"""Radiometric joining of dates: a robust gain and offset for each band, from ground that both show clear.

Dates differ by haze, sun and season. The line between both is fitted to means over cells of many pixels, whose noise
and misregistration hardly count, by least squares in both directions (both images have errors), with Tukey's weights:
a cell whose ground has changed differs in all bands, so the bands share one weight for each cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_FEWEST_CELLS = 25
_ROUNDS = 12
_TUKEY = 4.685
_MAD_TO_SIGMA = 1.4826
_LEAST_SIGMA = 1e-4
"""Reflectance; cells that agree better are equal."""
_LEAST_CORRELATION = 0.6
_GAINS = (0.5, 2.0)
"""Lines outside are no radiometric difference of one ground."""


@dataclass(frozen=True)
class Join:
    """How a date is joined to others: reflectance times ``gain`` plus ``offset``, by band, found on ``cells``."""

    gain: FloatArray
    offset: FloatArray
    cells: int

    @classmethod
    def none(cls, bands: int) -> Join:
        """Leave a date as it is."""
        return cls(np.ones(bands), np.zeros(bands), 0)


def join(values: FloatArray, reference: FloatArray) -> Join:
    """Fit the line from one date to another.

    Parameters
    ----------
    values, reference
        Reflectance of the same cells, shape (band, cell), NaN where one is not clear.

    Returns
    -------
    Join
        Gain 1 and offset 0 for fewer than 25 common cells; gain 1 in a band whose cells do not follow a line.
    """
    both = np.isfinite(values).all(axis=0) & np.isfinite(reference).all(axis=0)
    if np.count_nonzero(both) < _FEWEST_CELLS:
        return Join.none(len(values))
    x, y = values[:, both].astype(np.float64), reference[:, both].astype(np.float64)
    gain, offset = np.ones(len(x)), np.median(y - x, axis=1)
    weight = _weights(x, y, gain, offset)
    for _ in range(_ROUNDS):
        lines = [_line(*pair, weight) for pair in zip(x, y, strict=True)]
        gain, offset = np.array([line[0] for line in lines]), np.array([line[1] for line in lines])
        renewed = _weights(x, y, gain, offset)
        settled = bool(np.max(np.abs(renewed - weight)) < 1e-3)
        weight = renewed
        if settled:
            break
    return Join(gain, offset, int(np.count_nonzero(weight > 0)))


def _weights(x: FloatArray, y: FloatArray, gain: FloatArray, offset: FloatArray) -> FloatArray:
    """Tukey's weight of each cell, from the residuals of all bands, shape (cell,)."""
    residual = y - gain[:, None] * x - offset[:, None]
    sigma = np.maximum(_MAD_TO_SIGMA * np.median(np.abs(residual), axis=1, keepdims=True), _LEAST_SIGMA)
    distance = np.sqrt(np.mean((residual / sigma) ** 2, axis=0)) / _TUKEY
    return np.where(distance < 1.0, (1.0 - np.minimum(distance, 1.0) ** 2) ** 2, 0.0)


def _line(x: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Weighted orthogonal regression of one band: gain and offset."""
    total = float(weight.sum())
    if total <= 0.0:
        return 1.0, float(np.median(y - x))
    mean_x, mean_y = float(weight @ x) / total, float(weight @ y) / total
    dx, dy = x - mean_x, y - mean_y
    xx, yy, xy = (float(weight @ product) for product in (dx * dx, dy * dy, dx * dy))
    if xy <= _LEAST_CORRELATION * np.sqrt(xx * yy) or xy <= 0.0:
        return 1.0, mean_y - mean_x
    slope = (yy - xx + np.hypot(yy - xx, 2.0 * xy)) / (2.0 * xy)
    if not _GAINS[0] <= slope <= _GAINS[1]:
        return 1.0, mean_y - mean_x
    return float(slope), mean_y - float(slope) * mean_x
