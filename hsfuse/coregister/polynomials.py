"""Displacement fields that are polynomials of the pixel position, and one shift with what it neglects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.spline_lattice import Spline, to_map
from hsfuse.coregister.trend import usual_plane
from hsfuse.grid import Grid

_USED_WEIGHT = 0.2
_USUAL_DISTORTION_PX = 0.5
"""Usual size of what one shift, or a slope that is carried on, neglects over half the image: waves, terrain."""


@dataclass(frozen=True)
class Polynomial:
    """All monomials up to a degree, in coordinates scaled to the image."""

    degree: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """Name for reports."""
        return ("shift", "affine", "polynomial 2", "polynomial 3")[self.degree]

    @property
    def size(self) -> int:
        """Number of monomials."""
        return (self.degree + 1) * (self.degree + 2) // 2

    def design(self, position: FloatArray) -> FloatArray:
        """Monomials at positions, shape (point, monomial); the first three are 1, row, column."""
        u = 2 * position[:, 0] / self.height - 1
        v = 2 * position[:, 1] / self.width - 1
        powers = [(i, total - i) for total in range(self.degree + 1) for i in range(total, -1, -1)]
        return np.stack([u**i * v**j for i, j in powers], axis=1)

    def precision(self) -> FloatArray:
        """What is known of the coefficients of an affine field before any point is seen."""
        return usual_plane(self.height, self.width)

    def fit(self, points: Points, weight: FloatArray, smoothing: float = 0.0) -> FittedPolynomial:  # noqa: ARG002
        """Fit by weighted least squares (polynomials are not smoothed)."""
        design, full = self.design(points.position), points.information(weight)
        normal = design.T @ (design * full[:, None])
        normal += 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal)) + 1e-12 * np.eye(len(normal))
        covariance: FloatArray = np.asarray(np.linalg.inv(normal), dtype=np.float64)
        return FittedPolynomial(self, covariance @ (design.T @ (points.value * full[:, None])), covariance)

    def fits(self, points: Points, weight: FloatArray, smoothings: Sequence[float]) -> Iterator[FittedPolynomial]:
        """Fit, once for each strength of smoothing (all alike)."""
        fitted = self.fit(points, weight)
        yield from (fitted for _ in smoothings)


@dataclass(frozen=True)
class FittedPolynomial:
    """Polynomial with its coefficients (monomial, 2) and their covariance (of one coordinate)."""

    model: Polynomial
    coefficients: FloatArray
    covariance: FloatArray

    @property
    def name(self) -> str:
        """Name for reports."""
        return self.model.name

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return np.asarray(self.model.design(position) @ self.coefficients)

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Contribution of each point, and what is left open: a slope may be a wave's flank and end beyond the points.

        Among the points a polynomial leaves nothing open, and one shift (degree 0) has no slope.
        """
        weighted = self.model.design(points.position) * points.information(weight)[:, None]
        influence = self.model.design(position) @ self.covariance @ weighted.T
        used = points.position[weight > _USED_WEIGHT]
        if self.model.degree == 0 or not len(used):
            return influence, np.zeros(len(position))
        from scipy.spatial import cKDTree

        distance, _ = cKDTree(used).query(position)
        half = max(self.model.height, self.model.width) / 2.0
        beyond = np.maximum(0.0, np.asarray(distance) - points.window / 2.0) / half
        return influence, (_USUAL_DISTORTION_PX * beyond) ** 2

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units; what is not affine becomes a spline, which holds cubics exactly."""
        model = self.model
        affine = np.zeros((3, 2))
        affine[: min(3, model.size)] = self.coefficients[:3]
        if model.degree < 2:
            return to_map(grid, affine, None, None, model.name)
        spline = Spline.over(model.height, model.width, max(8.0, max(model.height, model.width) / 24), grid)
        position = spline.knot_positions(extra=1)
        rest = self.coefficients.copy()
        rest[:3] = 0.0
        values = (model.design(position) @ rest).reshape(spline.shape[0] + 2, spline.shape[1] + 2, 2)
        stencil = np.array([-1.0, 8.0, -1.0]) / 6.0
        tall = sum(w * values[k : k + spline.shape[0]] for k, w in enumerate(stencil))
        both = sum(w * tall[:, k : k + spline.shape[1]] for k, w in enumerate(stencil))
        return to_map(grid, affine, spline, np.asarray(both).reshape(-1, 2), model.name)


@dataclass(frozen=True)
class OneShift:
    """One displacement where there are too few points to prove more, or where no more is wanted.

    Attributes
    ----------
    shift
        The displacement.
    plane
        The affine field that the points suggest under the usual prior on its slopes, to know how wrong one shift is.
    misfit
        Variance of one coordinate of the points around that plane beyond their noise.
    """

    shift: FittedPolynomial
    plane: FittedPolynomial
    misfit: float

    @classmethod
    def of(cls, shift: FittedPolynomial, points: Points, weight: FloatArray) -> OneShift:
        """What the points say about the field that one shift neglects."""
        model = Polynomial(1, shift.model.height, shift.model.width)
        design, full = model.design(points.position), points.information(weight)
        normal = design.T @ (design * full[:, None]) + np.diag([1e-9, *(_USUAL_DISTORTION_PX**-2,) * 2])
        covariance: FloatArray = np.asarray(np.linalg.inv(normal), dtype=np.float64)
        plane = FittedPolynomial(model, covariance @ (design.T @ (points.value * full[:, None])), covariance)
        square = ((points.value - plane.at(points.position)) ** 2).mean(axis=1)
        total = max(float(weight.sum()), 1e-9)
        return cls(shift, plane, max(0.0, float(weight @ (square - points.sigma**2)) / total))

    @property
    def name(self) -> str:
        """Name for reports."""
        return self.shift.name

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return self.shift.at(position)

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Contribution of each point, and what one shift leaves open of the field that the points suggest."""
        influence, _ = self.shift.influence(points, weight, position)
        design = self.plane.model.design(position)
        bent = ((self.plane.at(position) - self.shift.at(position)) ** 2).mean(axis=1)
        return influence, bent + ((design @ self.plane.covariance) * design).sum(axis=1) + self.misfit

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units."""
        return self.shift.to_field(grid)
