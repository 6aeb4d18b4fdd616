"""Displacement fields that are an affine field, or another trend, plus a penalised spline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.banded import factor_banded, solve_banded
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.polynomials import Polynomial
from hsfuse.coregister.spline_lattice import Spline, to_map
from hsfuse.coregister.threads import PARTS, spread
from hsfuse.coregister.trend import Trend, interpolating
from hsfuse.grid import Grid
from hsfuse.parallel import parts_of

_PRIOR_SHARE = 0.4
"""Variance left open by the points, relative to what the penalty says as a prior."""


@dataclass(frozen=True)
class PolynomialSpline:
    """An affine field, or another trend, plus a spline under a penalty on roughness."""

    spline: Spline
    trend: Trend | None = None
    _last: list[_SplineTerms] = field(default_factory=list, compare=False, repr=False)

    def fit(self, points: Points, weight: FloatArray, smoothing: float) -> FittedSpline:
        """Fit both parts together (see :meth:`fits`)."""
        return next(self.fits(points, weight, (smoothing,)))

    def fits(self, points: Points, weight: FloatArray, smoothings: Sequence[float]) -> Iterator[FittedSpline]:
        """Fit both parts together.

        The spline's penalty acts as the prior of a smooth random field. The affine part is what generalised least
        squares finds under it: a slope that a bend explains as well is not carried on to where there are no points.
        """
        terms, full = self.terms(points), points.information(weight)
        affine, weighted_value = terms.affine, points.value * full[:, None]
        normal = terms.normal(full)
        mixed = terms.transposed @ (affine * full[:, None])
        right = np.hstack([mixed, terms.transposed @ weighted_value])
        own = affine.T @ (affine * full[:, None]) + terms.trend.precision()
        size = affine.shape[1]
        for smoothing in smoothings:
            system = normal + max(smoothing, 1e-12) * self.spline.penalty()
            factor = factor_banded(system)
            solved = solve_banded(factor, right)
            covariance = np.linalg.inv(own - mixed.T @ solved[:, :size])
            slopes = covariance @ (affine.T @ weighted_value - mixed.T @ solved[:, size:])
            coefficients = solved[:, size:] - solved[:, :size] @ slopes
            yield FittedSpline(self.spline, FittedTrend(terms.trend, slopes, covariance), coefficients, factor, normal)

    def terms(self, points: Points) -> _SplineTerms:
        """Return what all fits to some points share; those of the last points are kept."""
        if not self._last or self._last[0].points is not points:
            plane = Polynomial(1, self.spline.height, self.spline.width)
            self._last[:] = [_SplineTerms.of(points, self.spline, self.trend or plane)]
        return self._last[0]


@dataclass(frozen=True)
class _SplineTerms:
    """What all fits to the same points share: only their weights differ.

    Attributes
    ----------
    points, spline, trend
        What is fitted to what.
    affine
        Values of the trend, shape (point, function).
    transposed
        Values of the B-splines, shape (knot, point).
    place, product
        Where the products of each point's B-splines go in the banded normal matrix, and the products.
    """

    points: Points
    spline: Spline
    trend: Trend
    affine: FloatArray
    transposed: scipy.sparse.csr_array
    place: NDArray[np.int64]
    product: FloatArray

    @classmethod
    def of(cls, points: Points, spline: Spline, trend: Trend) -> _SplineTerms:
        """Collect the terms."""
        index, values = spline.taps(points.position)
        first, second = np.triu_indices(index.shape[1])
        row, col = index[:, first], index[:, second]
        place = (spline.bandwidth + row - col) * (spline.shape[0] * spline.shape[1]) + col
        return cls(
            points, spline, trend, trend.design(points.position), spline.design(points.position).T.tocsr(),
            place.ravel(), values[:, first] * values[:, second],
        )  # fmt: skip

    def normal(self, full: FloatArray) -> FloatArray:
        """Normal matrix for weighted points, in LAPACK's banded storage."""
        shape = (self.spline.bandwidth + 1, self.spline.shape[0] * self.spline.shape[1])
        sums = np.bincount(self.place, (self.product * full[:, None]).ravel(), minlength=shape[0] * shape[1])
        return np.asarray(sums, dtype=np.float64).reshape(shape)


@dataclass(frozen=True)
class FittedTrend:
    """Trend with its coefficients (function, 2) and their covariance (of one coordinate)."""

    model: Trend
    coefficients: FloatArray
    covariance: FloatArray

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return np.asarray(self.model.design(position) @ self.coefficients)


@dataclass(frozen=True)
class FittedSpline:
    """Affine field, or another trend, plus spline."""

    spline: Spline
    affine: FittedTrend
    coefficients: FloatArray
    factor: FloatArray
    normal: FloatArray

    @property
    def name(self) -> str:
        """Name for reports."""
        return "spline"

    @cached_property
    def roughness(self) -> float:
        """How large the penalty's value is relative to what its prior expects of a fit with as much freedom.

        Below 1 the field is smoother than its prior (a long wave that needs small knots), and the points leave open
        less than the prior says. One scene is a small sample of it, so half of the difference (in logarithms) is
        believed.
        """
        bandwidth, c = self.spline.bandwidth, self.coefficients
        tall = self.factor[bandwidth][:, None] * c
        for k in range(1, min(bandwidth, len(c) - 1) + 1):
            tall[:-k] += self.factor[bandwidth - k, k:][:, None] * c[k:]
        normal = _dense(self.normal)
        value = float((tall**2).sum() - (c * (normal @ c)).sum()) / 2.0

        def trace(part: slice) -> float:
            solved = solve_banded(self.factor, normal[:, part])
            return float(np.trace(solved[part]))

        return max(value, 0.0) / max(sum(spread(trace, parts_of(len(normal), PARTS))), 1e-9)

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return self.affine.at(position) + self.bend(position)

    def bend(self, position: FloatArray) -> FloatArray:
        """What the spline adds to the trend at positions."""
        return np.asarray(self.spline.design(position) @ self.coefficients)

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Contribution of each point, and what the penalty as a prior leaves open."""
        full = points.information(weight)
        at, plane_at = self.spline.design(position).toarray(), self.affine.model.design(position)
        of, plane_of = self.spline.design(points.position), self.affine.model.design(points.position) * full[:, None]
        solved = solve_banded(self.factor, at.T)
        solved_plane = solve_banded(self.factor, of.T @ plane_of)
        bent = np.asarray(of @ solved).T * full
        slope = plane_at - solved.T @ (of.T @ plane_of)
        covariance = self.affine.covariance
        influence = bent + slope @ covariance @ (plane_of - np.asarray(of @ solved_plane) * full[:, None]).T
        posterior = (at.T * solved).sum(axis=0) + np.einsum("ij,jk,ik->i", slope, covariance, slope)
        noise = influence**2 @ np.divide(1.0, full, out=np.zeros_like(full), where=full > 0)
        return influence, _PRIOR_SHARE * np.sqrt(self.roughness) * np.maximum(posterior - noise, 0.0)

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units."""
        coefficients = self.coefficients
        if len(self.affine.coefficients) > 3:
            coefficients = coefficients + self._trend_as_spline()
        return to_map(grid, self.affine.coefficients[:3], self.spline, coefficients, self.name)

    def _trend_as_spline(self) -> FloatArray:
        """What of the trend is not affine, as coefficients of the spline."""
        beyond = 3
        rows, cols = (n + 2 * beyond for n in self.spline.shape)
        rest = self.affine.coefficients.copy()
        rest[:3] = 0.0
        values = (self.affine.model.design(self.spline.knot_positions(extra=beyond)) @ rest).reshape(rows, cols, 2)
        tall = interpolating(values)
        both = interpolating(tall.transpose(1, 0, 2)).transpose(1, 0, 2)
        return both[beyond:-beyond, beyond:-beyond].reshape(-1, 2)


def _dense(banded: FloatArray) -> FloatArray:
    """Symmetric matrix from the upper part in LAPACK's banded storage."""
    bandwidth, size = banded.shape[0] - 1, banded.shape[1]
    out = np.zeros((size, size))
    for k in range(min(bandwidth, size - 1) + 1):
        at = np.arange(size - k)
        out[at, at + k] = out[at + k, at] = banded[bandwidth - k, k:]
    return out
