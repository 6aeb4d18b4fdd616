"""A dense spline through all boxes, judged by splines through half of them: what boxes say that it did not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsfuse.coregister.boxes import Boxes, Covariance
from hsfuse.coregister.fit import robust_weights
from hsfuse.coregister.models import Fitted, FloatArray, Points
from hsfuse.coregister.seams import Seam, find_seam
from hsfuse.coregister.splines import FittedSpline, PolynomialSpline

FEWEST_BOXES = 60
_SMOOTHINGS = (30.0, 3.0, 0.3, 0.03, 0.003)
_USED_WEIGHT, _LOSS_CAP = 0.2, 9.0


@dataclass(frozen=True)
class HalvedFit:
    """A spline through all boxes, and what splines through half of them say.

    Attributes
    ----------
    boxes, value, weight
        The boxes, their displacement beyond the smooth field, shape (box, 2), and their robust weights, shape (box,).
    whole
        Spline through all.
    halves
        Splines through the even and odd rows, and through the even and odd columns of boxes.
    before
        Covariance of neighbouring boxes without the splines.
    after, at_worst
        The same beyond the splines that did not see these boxes, of the halves where it is less, and where it is more.
        Half of the rows (or columns) tell less than all of them, so either is more than the error of ``whole``.
    """

    boxes: Boxes
    value: FloatArray
    weight: FloatArray
    whole: FittedSpline
    halves: tuple[tuple[FittedSpline, FittedSpline], tuple[FittedSpline, FittedSpline]]
    before: Covariance
    after: Covariance
    at_worst: Covariance

    @classmethod
    def of(cls, boxes: Boxes, already: FloatArray, model: PolynomialSpline) -> HalvedFit | None:
        """Fit to residuals plus what was found ``already``, both of shape (n_r, n_c, 2)."""
        points, odd = boxes.points(already), boxes.parity(0)
        weight = boxes.robust_weights(boxes.residual + already).ravel()
        if min(float(weight[odd == half].sum()) for half in (0, 1)) < FEWEST_BOXES / 2:
            return None
        unit = model.spline.unit_smoothing(points)
        strengths = [s * unit for s in _SMOOTHINGS]
        fits = [list(model.fits(points, np.where(odd == half, weight, 0.0), strengths)) for half in (0, 1)]
        losses = [
            sum(_loss(points, weight * (odd != half), fits[half][k]) for half in (0, 1)) for k in range(len(strengths))
        ]
        strength = strengths[int(np.argmin(losses))]
        whole = model.fit(points, weight, strength)
        weight = weight * robust_weights(points.value - whole.at(points.position), points.sigma, weight)
        whole = model.fit(points, weight, strength)
        halves, left = [], []
        value = points.value.reshape(boxes.residual.shape)
        for axis, both_unseen in ((0, ((0, 1), (2, 0))), (1, ((1, 0), (0, 2)))):
            odd = boxes.parity(axis)
            even_fit, odd_fit = (model.fit(points, np.where(odd == half, weight, 0.0), strength) for half in (0, 1))
            other = np.where((odd == 0)[:, None], odd_fit.at(points.position), even_fit.at(points.position))
            halves.append((even_fit, odd_fit))
            # Neighbours along a row, and across the next, are in the same half: the other's spline saw neither.
            left.append(boxes.covariance(value - other.reshape(value.shape), both_unseen))
        left.sort(key=lambda one: one.value)
        before = boxes.covariance(value, ((0, 1), (1, 0)))
        return cls(boxes, points.value, weight, whole, (halves[0], halves[1]), before, *left)

    def seam(self, base: Fitted) -> Seam | None:
        """Line at which the displacement jumps, of the smooth field ``base`` and what the boxes add."""
        boxes = self.boxes
        position = boxes.position.reshape(-1, 2)
        value = base.at(position) + self.value
        agree = boxes.robust_weights(value.reshape(boxes.residual.shape)).ravel()
        return find_seam(position, value, boxes.weight.ravel() * agree, float(boxes.side))

    @property
    def unknown(self) -> float:
        """Share of the boxes that measured nothing, or nothing that agrees with those around them."""
        return float((self.weight < _USED_WEIGHT).mean())

    def detail_variance(self, height: int, width: int) -> float:
        """Variance (one coordinate) of what the spline adds, over the image."""
        return float((self.whole.at(even_lattice(height, width)) ** 2).mean())

    def unresolved(self, height: int, width: int) -> float:
        """Variance of what bends within less than a knot: an eighth of the field's second differences over knots."""
        middle, total = even_lattice(height, width), 0.0
        at_middle = self.whole.at(middle)
        for axis, spacing in enumerate(self.whole.spline.spacing):
            step = np.zeros(2)
            step[axis] = spacing
            bend = self.whole.at(middle + step) - 2.0 * at_middle + self.whole.at(middle - step)
            total += float((bend**2).mean())
        return total / 64.0

    def unseen(self, height: int, width: int) -> float:
        """Variance that the splines have over the whole image beyond that where boxes are."""

        def spread(position: FloatArray) -> float:
            # Half the difference of two halves is as uncertain as their mean.
            return float(np.mean([(a.at(position) - b.at(position)) ** 2 for a, b in self.halves])) / 4.0

        return max(0.0, spread(even_lattice(height, width)) - spread(self.boxes.position[self.boxes.usable]))


def even_lattice(height: int, width: int) -> FloatArray:
    """Positions (row, col) spread evenly over an image, shape (position, 2)."""
    rows, cols = (np.linspace(0.0, n - 1.0, 80) for n in (height, width))
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)


def _loss(points: Points, weight: FloatArray, fitted: FittedSpline) -> float:
    square = ((points.value - fitted.at(points.position)) ** 2).sum(axis=1) / points.sigma**2
    return float((weight * np.minimum(square, _LOSS_CAP)).sum())
