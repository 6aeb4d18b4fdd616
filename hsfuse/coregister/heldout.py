"""A dense spline through all boxes, judged by splines that were fitted without some of them.

Boxes share no pixel, so their noise is independent, and a box may be predicted from those right beside it. Pairs of
neighbours are left out at a time: both lack the same, and what they have in common beyond the spline is its error
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.coregister.boxes import FOLDS, Boxes, Covariance
from hsfuse.coregister.fit import robust_weights
from hsfuse.coregister.models import Fitted, FloatArray, Points
from hsfuse.coregister.seams import Seam, find_seam
from hsfuse.coregister.splines import FittedSpline, PolynomialSpline

FEWEST_BOXES = 60
_SMOOTHINGS = (30.0, 3.0, 0.3, 0.03, 0.003)
_JUDGED_FOLDS = (0, 3)
"""Folds that choose how stiff the spline is: those of half of the boxes, in all rows and columns of pairs."""
_USED_WEIGHT, _LOSS_CAP = 0.2, 9.0
_INTERPOLATED = 0.25
"""Share of the variance that interpolation between known boxes leaves at an unknown one."""


@dataclass(frozen=True)
class BoxFit:
    """A spline through boxes.

    Attributes
    ----------
    boxes, points, weight
        The boxes, their displacement beyond the smooth field as points, and their robust weights, shape (box,).
    model, smoothing
        What was fitted.
    whole
        The spline.
    """

    boxes: Boxes
    points: Points
    weight: FloatArray
    model: PolynomialSpline
    whole: FittedSpline
    smoothing: float

    @classmethod
    def of(cls, boxes: Boxes, already: FloatArray, model: PolynomialSpline) -> BoxFit | None:
        """Fit to residuals plus what was found ``already``, both of shape (n_r, n_c, 2); None for too few boxes."""
        points = boxes.points(already)
        weight = boxes.robust_weights(boxes.residual + already).ravel()
        if float(weight.sum()) < FEWEST_BOXES:
            return None
        strengths = [smoothing * model.spline.unit_smoothing(points) for smoothing in _SMOOTHINGS]
        losses, folds = np.zeros(len(strengths)), boxes.folds(1)
        for fold in _JUDGED_FOLDS:
            held = folds == fold
            fits = model.fits(points, np.where(held, 0.0, weight), strengths)
            losses += [_loss(points, weight * held, fitted) for fitted in fits]
        strength = strengths[int(np.argmin(losses))]
        whole = model.fit(points, weight, strength)
        weight = weight * robust_weights(points.value - whole.at(points.position), points.sigma, weight)
        return cls(boxes, points, weight, model, model.fit(points, weight, strength), strength)

    def without(self, held: NDArray[np.bool_]) -> FittedSpline:
        """The same spline had it not seen some boxes, shape (box,)."""
        return self.model.fit(self.points, np.where(held, 0.0, self.weight), self.smoothing)


@dataclass(frozen=True)
class HeldOutFit:
    """A spline through all boxes, and what splines without some of them say.

    Attributes
    ----------
    fit
        The spline and its boxes.
    quarters
        Splines without a quarter of the boxes each.
    before
        Covariance of neighbouring boxes without the splines.
    after
        The same beyond splines that saw neither of the two, of the pairs along rows or columns that have more.
    """

    fit: BoxFit
    quarters: tuple[FittedSpline, ...]
    before: Covariance
    after: Covariance

    @classmethod
    def of(cls, fit: BoxFit) -> HeldOutFit:
        """Judge a spline."""
        boxes, points = fit.boxes, fit.points
        value = points.value.reshape(boxes.residual.shape)
        quarters: list[FittedSpline] = []
        left = []
        for axis in (0, 1):
            folds, unseen = boxes.folds(axis), np.zeros_like(points.value)
            quarters = [fit.without(folds == fold) for fold in range(FOLDS)]
            for fold, fitted in enumerate(quarters):
                unseen[folds == fold] = fitted.at(points.position[folds == fold])
            left.append(boxes.pair_covariance(value - unseen.reshape(value.shape), axis))
        before = boxes.covariance(value, ((0, 1), (1, 0)))
        return cls(fit, tuple(quarters), before, max(left, key=lambda one: one.value))

    @property
    def whole(self) -> FittedSpline:
        """The spline through all boxes."""
        return self.fit.whole

    def seam(self, base: Fitted) -> Seam | None:
        """Line at which the displacement jumps, of the smooth field ``base`` and what the boxes add."""
        boxes, points = self.fit.boxes, self.fit.points
        value = base.at(points.position) + points.value
        agree = boxes.robust_weights(value.reshape(boxes.residual.shape)).ravel()
        return find_seam(points.position, value, boxes.weight.ravel() * agree, float(boxes.side))

    @property
    def unknown(self) -> float:
        """Share of what the spline adds that is not known where boxes measured nothing, or nothing that agrees.

        Among boxes that are known, one is interpolated; where most of those around it are not, nothing is known.
        """
        missing = (self.fit.weight < _USED_WEIGHT).reshape(self.fit.boxes.usable.shape)
        alone = ndimage.uniform_filter(missing.astype(np.float64), 3, mode="nearest") < 0.5
        return float(np.where(alone, _INTERPOLATED * missing, 1.0).mean())

    def detail_variance(self, height: int, width: int) -> float:
        """Variance (one coordinate) of what the spline adds to its trend, over the image.

        With heights the trend holds most of the parallax, and what is known by it needs no boxes.
        """
        return float((self.whole.bend(even_lattice(height, width)) ** 2).mean())

    def unresolved(self, height: int, width: int) -> float:
        """Variance of what bends within less than a knot: an eighth of the field's second differences over knots."""
        middle, total = even_lattice(height, width), 0.0
        at_middle = self.whole.bend(middle)
        for axis, spacing in enumerate(self.whole.spline.spacing):
            step = np.zeros(2)
            step[axis] = spacing
            bend = self.whole.bend(middle + step) - 2.0 * at_middle + self.whole.bend(middle - step)
            total += float((bend**2).mean())
        return total / 64.0

    def unseen(self, height: int, width: int) -> float:
        """Variance that the splines have over the whole image beyond that where boxes are."""

        def spread(position: FloatArray) -> float:
            # The jackknife that leaves out one group at a time.
            values = np.stack([one.at(position) for one in self.quarters])
            return float(((values - values.mean(axis=0)) ** 2).sum(axis=0).mean()) * (FOLDS - 1) / FOLDS

        boxes = self.fit.boxes
        return max(0.0, spread(even_lattice(height, width)) - spread(boxes.position[boxes.usable]))


def even_lattice(height: int, width: int) -> FloatArray:
    """Positions (row, col) spread evenly over an image, shape (position, 2)."""
    rows, cols = (np.linspace(0.0, n - 1.0, 80) for n in (height, width))
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)


def _loss(points: Points, weight: FloatArray, fitted: FittedSpline) -> float:
    square = ((points.value - fitted.at(points.position)) ** 2).sum(axis=1) / points.sigma**2
    return float((weight * np.minimum(square, _LOSS_CAP)).sum())
