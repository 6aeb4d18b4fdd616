"""Displacements of small boxes beside a field: what varies faster than matching windows can follow.

A window averages over its width: displacement that changes sign within it leaves no trace in its value, only in its
scatter, where it looks like noise. Boxes of a few pixels see it. One box is noisy, but the noise of two boxes is
independent, because they share no pixel; what neighbouring boxes have in common is displacement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.refine import Refiner, Warped
from hsfuse.coregister.windows import Windows

BOX_PX = 8
"""Side of the boxes: smaller ones are too noisy, larger ones average relief of a kilometre away."""
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
FOLDS = 4
"""Pairs of boxes are left out of a fit in so many groups."""
_LEAST_SHARE, _MOST_SIGMA_PX, _MOST_STEP_PX = 0.4, 1.0, 3.0
_COMMON_VARIANCE_PX2, _ALIKE_VARIANCE_PX2 = 0.05, 0.2
"""Variance added to that of every box in a fit and in averages: where displacement changes, boxes look noisier."""
_CLIP, _MAD_TO_SIGMA = 8.0, 1.4826
_AROUND, _NEAR, _OUTLIER = (2, 1), (1, 5), 5.0
"""Wide and near neighbourhood: how far it reaches, and how many boxes must be known in it."""


@dataclass(frozen=True)
class Covariance:
    """Covariance of neighbouring boxes (one coordinate, square pixels) and its standard error."""

    value: float
    error: float

    @property
    def above_chance(self) -> float:
        """What is left of it after two standard errors, not negative."""
        return max(0.0, self.value - 2.0 * self.error)


@dataclass(frozen=True)
class Boxes:
    """Displacements of boxes relative to a field.

    Attributes
    ----------
    position
        Centres (row, col) of the boxes in pixels, shape (n_r, n_c, 2).
    residual
        Displacement (row, col) beyond the field in pixels, shape (n_r, n_c, 2).
    sigma
        Standard error of one coordinate, shape (n_r, n_c).
    usable
        Boxes that measured something, shape (n_r, n_c). Nothing about the size of the residual decides that.
    side
        Side of the boxes in pixels.
    """

    position: FloatArray
    residual: FloatArray
    sigma: FloatArray
    usable: NDArray[np.bool_]
    side: int

    @property
    def weight(self) -> FloatArray:
        """Weight of each box in averages."""
        return np.where(self.usable, 1.0 / (self.sigma**2 + _ALIKE_VARIANCE_PX2), 0.0)

    def folds(self, axis: int) -> NDArray[np.int64]:
        """Which of the folds each box is in, shape (box,): pairs of neighbours along an axis (0: rows are counted).

        Of the boxes around a pair none is in the same fold but those at its corners.
        """
        index = np.indices(self.sigma.shape)
        return np.asarray((index[1 - axis] % 2 + 2 * (index[axis] // 2 % 2)).ravel(), dtype=np.int64)

    def pair_covariance(self, residual: FloatArray, axis: int) -> Covariance:
        """Covariance of the two boxes of each of the pairs that are left out together."""
        values, weight = _clipped(residual, self.usable), self.weight
        count = weight.shape[axis] // 2 * 2
        first, second = [slice(None), slice(None)], [slice(None), slice(None)]
        first[axis], second[axis] = slice(0, count, 2), slice(1, count, 2)
        return _joint(values, weight, (first[0], first[1]), (second[0], second[1]))

    def points(self, field: FloatArray) -> Points:
        """All boxes as points; ``field`` (n_r, n_c, 2) is added to the residuals."""
        position, value = self.position.reshape(-1, 2), (self.residual + field).reshape(-1, 2)
        sigma = np.sqrt(self.sigma**2 + _COMMON_VARIANCE_PX2).ravel()
        return Points(position, value, sigma, 1.0, float(self.side), float(self.side))

    def covariance(
        self, residual: FloatArray | None = None, steps: tuple[tuple[int, int], ...] = NEIGHBOURS
    ) -> Covariance:
        """Largest covariance of a box with its neighbours over the directions in ``steps``.

        Displacement by relief or jitter is alike along one direction and changes along the other, which is why the
        largest counts; very large residuals are clipped.
        """
        values = _clipped(self.residual if residual is None else residual, self.usable)
        weight = self.weight
        found = [_lagged(values, weight, step) for step in steps]
        return max(found, key=lambda one: one.value)

    def robust_weights(self, residual: FloatArray) -> FloatArray:
        """1 where a box agrees with the median of those around it, else 0, shape (n_r, n_c).

        Around it is the wide or the near neighbourhood: a summit is as narrow as a few boxes, and its boxes agree with
        each other alone.
        """
        values = np.where(self.usable[..., None], residual, np.nan)
        wide, near = (
            np.hypot(*np.moveaxis(values - _median_around(values, *around), -1, 0)) for around in (_AROUND, _NEAR)
        )
        usual = float(np.nanmedian(wide)) if np.isfinite(wide).any() else 1.0
        return np.asarray(np.fmin(wide, near) < _OUTLIER * max(usual, 0.05), dtype=np.float64)


def _median_around(values: FloatArray, reach: int, fewest: int) -> FloatArray:
    """Median of the known boxes at most ``reach`` away; NaN where they are less than the ``fewest``."""
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), constant_values=np.nan)
    (rows, cols), span = values.shape[:2], range(2 * reach + 1)
    around = np.stack([padded[i : i + rows, j : j + cols] for i, j in product(span, span)])
    known = np.isfinite(around).all(axis=3).sum(axis=0) >= fewest
    middle = np.full_like(values, np.nan)
    middle[known] = np.nanmedian(around[:, known], axis=0)
    return middle


def measure_boxes(refiner: Refiner, field: Tensor | Warped, allowed: Tensor, side_px: int = BOX_PX) -> Boxes:
    """Measure what boxes that tile the image lack to a field, shape (2, row, col) in pixels."""
    windows = Windows.boxes(refiner.height, refiner.width, side_px, refiner.device)
    found = refiner.measure(windows, field, allowed)
    residual = np.stack([found.d_row, found.d_col], axis=-1)
    sigma = np.sqrt(np.maximum(found.variance, 0.0))
    usable = (found.share > _LEAST_SHARE) & (sigma > 0) & (sigma < _MOST_SIGMA_PX)
    usable &= np.isfinite(residual).all(axis=-1) & (np.hypot(found.d_row, found.d_col) < _MOST_STEP_PX)
    rows, cols = np.meshgrid(windows.rows, windows.cols, indexing="ij")
    residual = np.where(usable[..., None], residual, 0.0)
    return Boxes(np.stack([rows, cols], axis=-1), residual, np.where(usable, sigma, 1.0), usable, side_px)


def _clipped(residual: FloatArray, usable: NDArray[np.bool_]) -> FloatArray:
    """Residuals with their length limited to what is usual, zero where not usable."""
    length = np.hypot(residual[..., 0], residual[..., 1])
    usual = float(np.median(length[usable])) if usable.any() else 0.0
    limit = _CLIP * _MAD_TO_SIGMA * max(usual, 1e-6)
    shrink = np.minimum(1.0, limit / np.maximum(length, 1e-12))
    return np.asarray(np.where(usable[..., None], residual * shrink[..., None], 0.0))


def _lagged(values: FloatArray, weight: FloatArray, step: tuple[int, int]) -> Covariance:
    down, right = step
    rows, cols = weight.shape
    first = slice(0, rows - down), slice(max(0, -right), cols - max(0, right))
    second = slice(down, rows), slice(max(0, right), cols + min(0, right))
    return _joint(values, weight, first, second)


def _joint(
    values: FloatArray, weight: FloatArray, first: tuple[slice, slice], second: tuple[slice, slice]
) -> Covariance:
    """Covariance of boxes with as many others."""
    both = weight[first] * weight[second]
    total = float(both.sum())
    if total <= 0.0:
        return Covariance(0.0, math.inf)
    products = (values[first] * values[second]).sum(axis=-1) / 2.0
    value = float((both * products).sum()) / total
    own = float((weight * (values**2).sum(axis=-1)).sum() / weight.sum()) / 2.0
    return Covariance(value, own * math.sqrt(float((both**2).sum()) / 2.0) / total)
