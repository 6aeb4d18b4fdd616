"""A field that follows displacement finer than the matching windows, where the images prove that it does.

Relief parallax and attitude jitter vary over one to a few kilometres. Small boxes (see boxes.py) are measured from
coarse to fine, and a dense spline under a penalty is fitted to what they hold beyond the smooth field. Splines without
some of the boxes are judged by those, which share no pixel with the others. That decides how stiff it is, whether it
is better than the smooth field at all, and how wrong it is: two neighbours that it did not see have only its error in
common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.boxes import BOX_PX, Boxes, Covariance, measure_boxes
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.heldout import FEWEST_BOXES, BoxFit, HeldOutFit, even_lattice
from hsfuse.coregister.models import Fitted, FloatArray, Points, on_pixels
from hsfuse.coregister.refine import Refiner, Warped
from hsfuse.coregister.relief import Relief
from hsfuse.coregister.seams import Seam
from hsfuse.coregister.spline_lattice import Spline, to_map
from hsfuse.coregister.splines import FittedSpline, PolynomialSpline
from hsfuse.coregister.trend import interpolating
from hsfuse.grid import Grid

PixelField = NDArray[np.float32]

_STAGES = (
    (32, 8.0), (24, 8.0), (24, 8.0), (16, 5.0), (16, 5.0), (12, 3.0), (12, 3.0), (BOX_PX, 3.0), (BOX_PX, 1.5),
    (BOX_PX, 1.5), (6, 1.5),
)  # fmt: skip
"""Side of the boxes and scale of the background in pixels: large ones capture from farther, small ones see more."""
_LEAST_VARIANCE_PX2, _SIGNIFICANT = 8e-4, 6.0
"""Covariance of neighbouring boxes from which a finer field is tried, also in units of its standard error."""
_GAIN, _SEEN_SHARE = 0.9, 0.5
"""A finer field is taken when it leaves at most the first share of the covariance that the smooth field leaves. The
second is the share of the variance that boxes see of displacement which changes within a few of them."""
_FINEST_KNOT_PX, _MOST_KNOTS, _MOST_BOXES, _BEYOND_KNOTS = 8.0, 64, 100, 3


@dataclass(frozen=True)
class FineField:
    """A smooth field and a dense spline that is added to it."""

    base: Fitted
    detail: FittedSpline
    name: str = "fine spline"

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return self.base.at(position) + self.detail.at(position)

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Contribution of each point to the smooth field; what boxes add is judged by other boxes."""
        return self.base.influence(points, weight, position)

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units, on the knots of the dense spline."""
        spline, detail = self.detail.spline, self.detail
        rows, cols = (np.linspace(0.0, n - 1.0, 24) for n in (spline.height, spline.width))
        inside = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
        plane = np.linalg.lstsq(_plane(spline, inside), self.base.at(inside), rcond=None)[0]
        trend = detail.affine.coefficients.copy()
        affine = plane + trend[:3]
        trend[:3] = 0.0
        position = spline.knot_positions(extra=_BEYOND_KNOTS)
        within = np.clip(position, 0.0, [spline.height - 1.0, spline.width - 1.0])
        rest = self.base.at(within) - _plane(spline, within) @ plane + detail.affine.model.design(within) @ trend
        shape = tuple(n + 2 * _BEYOND_KNOTS for n in spline.shape)
        tall = interpolating(rest.reshape(*shape, 2))
        both = interpolating(tall.transpose(1, 0, 2)).transpose(1, 0, 2)
        inner = both[_BEYOND_KNOTS:-_BEYOND_KNOTS, _BEYOND_KNOTS:-_BEYOND_KNOTS].reshape(-1, 2)
        return to_map(grid, affine, spline, detail.coefficients + inner, self.name)


@dataclass(frozen=True)
class FineFit:
    """What small boxes say about a field.

    Attributes
    ----------
    fitted
        The finer field; None when the smooth field is as good.
    variance
        Variance (square pixels, one coordinate) of the error that boxes prove: of ``fitted``, or of the smooth field.
    before
        The same of the smooth field.
    boxes
        Boxes that were used in the end.
    slope
        Displacement (row, col) in pixels per metre of height, when heights were given.
    seam
        Line at which the displacement jumps, which no field follows; part of the variance.
    """

    fitted: FineField | None
    variance: float
    before: float
    boxes: int
    slope: tuple[float, float] | None = None
    seam: Seam | None = None


def first_boxes(refiner: Refiner, warped: Warped, allowed: Tensor) -> Boxes:
    """Measure with the smallest boxes what the reference ``warped`` by a smooth field lacks."""
    return measure_boxes(refiner, warped, allowed, _side(BOX_PX, refiner.height, refiner.width))


def fit_finer(
    refiner: Refiner,
    base: Fitted,
    grid: Grid,
    allowed: Tensor,
    *,
    boxes: Boxes,
    beside: PixelField,
    relief: Relief | None = None,
) -> FineFit:
    """Find displacement finer than a smooth field, follow it if possible, and say what is left.

    Parameters
    ----------
    refiner
        Measures displacements; its background's scale is changed.
    base
        The smooth field.
    grid
        Grid of the target.
    allowed
        Pixels that may be used, shape (row, col).
    boxes
        :func:`first_boxes` of the reference as it lies at ``beside``.
    beside
        Displacement of each pixel that is so near to ``base`` that boxes beside it measure the same, shape
        (2, row, col). The difference is no displacement that ``base`` misses.
    relief
        Heights, when known: the parallax is then fitted as a multiple of them.
    """
    height, width = refiner.height, refiner.width
    chance = boxes.covariance()
    used = int(boxes.usable.sum())
    significant = _is_significant(chance)
    # What ``base`` misses is missed by both: boxes on open water agree with whatever they were measured beside.
    missed_too = boxes.covariance(boxes.residual + _at(beside, boxes) - _field_at(base, boxes))
    chance = min(chance, missed_too, key=lambda one: one.above_chance)
    if used < FEWEST_BOXES or not (significant or relief is not None):
        return FineFit(None, chance.above_chance / _SEEN_SHARE, chance.above_chance, used)
    spacing = max(_FINEST_KNOT_PX, max(height, width) / _MOST_KNOTS)
    model = PolynomialSpline(Spline.over(height, width, spacing, grid), relief)
    field = start = on_pixels(base, height, width)
    last: BoxFit | None = None
    for side, background in _STAGES:
        refiner.background_px = background
        boxes = measure_boxes(refiner, torch.from_numpy(field).to(refiner.device), allowed, _side(side, height, width))
        fitted = BoxFit.of(boxes, _at(field, boxes) - _at(start, boxes), model)
        if fitted is not None:
            last = fitted
            field = on_pixels(FineField(base, fitted.whole), height, width)
    if last is None:
        return FineFit(None, chance.above_chance / _SEEN_SHARE, chance.above_chance, used)
    judged = HeldOutFit.of(last)
    before, after = judged.before, judged.after
    # The boxes that were asked first are larger and less noisy: what they proved holds.
    proven = max(before.above_chance, chance.above_chance)
    if not (_is_significant(before) or _is_significant(chance)):
        return FineFit(None, proven / _SEEN_SHARE, proven, used)
    seam = judged.seam(base)
    if after.value > _GAIN * before.value:
        # Boxes see less than what is there of displacement that cannot be followed.
        worse = proven / _SEEN_SHARE
        jump = seam.added_variance(base.at, even_lattice(height, width)) if seam is not None else 0.0
        return FineFit(None, worse + jump, worse, used, seam=seam)
    slope = None
    if relief is not None:
        slope = relief.slope(judged.whole.affine.coefficients)
    followed = FineField(base, judged.whole)
    # What is not followed is seen in part only, as above; little of it may be chance.
    left = max(0.0, after.value) + after.error / 2.0
    variance = left * (1.0 + left / max(before.value, 1e-12) * (1.0 / _SEEN_SHARE - 1.0))
    variance += judged.unseen(height, width) + judged.unresolved(height, width)
    variance += judged.unknown * judged.detail_variance(height, width)
    if seam is not None:
        variance += seam.added_variance(followed.at, even_lattice(height, width))
    return FineFit(followed, variance, before.above_chance, int(last.weight.sum()), slope, seam)


def _is_significant(found: Covariance) -> bool:
    return found.value > max(_LEAST_VARIANCE_PX2, _SIGNIFICANT * found.error)


def _side(side_px: int, height: int, width: int) -> int:
    """Boxes of a large image are larger, so that there are not too many."""
    return max(side_px, math.ceil(max(height, width) / _MOST_BOXES))


def _field_at(field: Fitted, boxes: Boxes) -> FloatArray:
    """A field at the boxes' centres, shape (n_r, n_c, 2)."""
    return field.at(boxes.position.reshape(-1, 2)).reshape(boxes.residual.shape)


def _at(field: PixelField, boxes: Boxes) -> FloatArray:
    """A field of pixels at the boxes' centres, shape (n_r, n_c, 2)."""
    index = np.rint(boxes.position).astype(int)
    rows = np.clip(index[..., 0], 0, field.shape[1] - 1)
    cols = np.clip(index[..., 1], 0, field.shape[2] - 1)
    return np.moveaxis(field[:, rows, cols], 0, -1).astype(np.float64)


def _plane(spline: Spline, position: FloatArray) -> FloatArray:
    """1, u and v at positions, as :func:`to_map` expects them."""
    u, v = 2.0 * position[:, 0] / spline.height - 1.0, 2.0 * position[:, 1] / spline.width - 1.0
    return np.stack([np.ones(len(position)), u, v], axis=1)
