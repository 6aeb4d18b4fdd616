"""Models of a displacement field in pixel coordinates: polynomials, and an affine field plus a penalised spline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import comb
from typing import Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField, Lattice, cubic_bspline
from hsfuse.coregister.trend import MU, Trend, difference, interpolating, usual_plane
from hsfuse.grid import Grid

FloatArray = NDArray[np.float64]

_USUAL_DISTORTION_PX = 0.5
"""Usual size of what one shift neglects over half the image: slopes, waves, terrain."""
_OPEN_SHARE = 0.4
"""Variance left open by the points, relative to what the penalty says as a prior."""
_LATTICE_PX = 8


@dataclass(frozen=True)
class Points:
    """Measured displacements in target pixels.

    Attributes
    ----------
    position
        Shape (point, 2): row and column.
    value
        Shape (point, 2): displacement along rows and columns.
    sigma
        Standard error of one coordinate, shape (point,).
    sharing
        How many points share the information of a pixel (overlapping windows): the variance of an average of points
        is so many times larger than if they were independent.
    spacing
        Distance of neighbouring points in pixels.
    window
        Side of the Hann windows that the points were measured in, in pixels.
    """

    position: FloatArray
    value: FloatArray
    sigma: FloatArray
    sharing: float = 1.0
    spacing: float = 20.0
    window: float = 64.0

    @property
    def size(self) -> int:
        """Number of points."""
        return int(self.sigma.size)

    def take(self, which: NDArray[np.bool_]) -> Points:
        """The points that are marked."""
        return replace(self, position=self.position[which], value=self.value[which], sigma=self.sigma[which])

    def information(self, weight: FloatArray) -> FloatArray:
        """Weight of each point in a least-squares fit whose covariance is meant."""
        return weight / (self.sigma**2 * self.sharing)


class Fitted(Protocol):
    """A fitted field."""

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement (row, col) at positions, shape (point, 2)."""
        ...

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How the points that were fitted determine the field at positions.

        Returns
        -------
        (influence, left_open)
            What each point contributes, shape (position, point): the field is ``influence @ points.value``. And the
            variance (square pixels, of one coordinate, shape (position,)) that the points leave open there.
        """
        ...

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units."""
        ...


class Model(Protocol):
    """Something that can be fitted."""

    def fit(self, points: Points, weight: FloatArray, smoothing: float) -> Fitted:
        """Fit by weighted least squares."""
        ...

    def fits(self, points: Points, weight: FloatArray, smoothings: Sequence[float]) -> Iterator[Fitted]:
        """Fit with several strengths of smoothing; what they share is computed once."""
        ...


def on_pixels(fitted: Fitted, height: int, width: int) -> NDArray[np.float32]:
    """Displacement of all pixels of an image, shape (2, row, col).

    It is computed every eight pixels and interpolated linearly: the field is straight over so short a way.
    """
    rows, cols = np.arange(0, height + _LATTICE_PX, _LATTICE_PX), np.arange(0, width + _LATTICE_PX, _LATTICE_PX)
    knots = np.stack(np.meshgrid(rows.astype(float), cols.astype(float), indexing="ij"), axis=-1).reshape(-1, 2)
    values = fitted.at(knots).T.reshape(2, len(rows), len(cols)).astype(np.float32)
    i, t = np.divmod(np.arange(height), _LATTICE_PX)
    j, s = np.divmod(np.arange(width), _LATTICE_PX)
    along, across = (t / _LATTICE_PX).astype(np.float32)[:, None], (s / _LATTICE_PX).astype(np.float32)
    tall = values[:, i] * (1 - along) + values[:, i + 1] * along
    return np.asarray(tall[:, :, j] + (tall[:, :, j + 1] - tall[:, :, j]) * across, dtype=np.float32)


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
        """Contribution of each point; a polynomial leaves nothing open."""
        weighted = self.model.design(points.position) * points.information(weight)[:, None]
        return self.model.design(position) @ self.covariance @ weighted.T, np.zeros(len(position))

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units; what is not affine becomes a spline, which holds cubics exactly."""
        model = self.model
        affine = np.zeros((3, 2))
        affine[: min(3, model.size)] = self.coefficients[:3]
        if model.degree < 2:
            return _to_map(grid, affine, None, None, model.name)
        spline = Spline.over(model.height, model.width, max(8.0, max(model.height, model.width) / 24), grid)
        position = spline.knot_positions(extra=1)
        rest = self.coefficients.copy()
        rest[:3] = 0.0
        values = (model.design(position) @ rest).reshape(spline.shape[0] + 2, spline.shape[1] + 2, 2)
        stencil = np.array([-1.0, 8.0, -1.0]) / 6.0
        tall = sum(w * values[k : k + spline.shape[0]] for k, w in enumerate(stencil))
        both = sum(w * tall[:, k : k + spline.shape[1]] for k, w in enumerate(stencil))
        return _to_map(grid, affine, spline, np.asarray(both).reshape(-1, 2), model.name)


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


@dataclass(frozen=True)
class Spline:
    """Tensor-product cubic B-splines on a lattice that reaches one knot beyond the image.

    Attributes
    ----------
    height, width
        Image shape in pixels.
    spacing
        Distance of the knots in pixels along rows and columns (equal in map units).
    """

    height: int
    width: int
    spacing: tuple[float, float]
    _cache: dict[str, FloatArray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def over(cls, height: int, width: int, spacing_px: float, grid: Grid) -> Spline:
        """Lattice of equal spacing in map units over an image."""
        distance = spacing_px * grid.pixel_m
        return cls(height, width, (distance / -grid.transform.e, distance / grid.transform.a))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of knots along rows and columns; the first lies one spacing before the image."""
        rows, cols = (int(np.ceil(n / s)) + 3 for n, s in zip((self.height, self.width), self.spacing, strict=True))
        return rows, cols

    def knot_positions(self, *, extra: int = 0) -> FloatArray:
        """Positions of the knots, and of ``extra`` more around them, shape (knot, 2)."""
        axes = [
            (np.arange(-extra, n + extra) - 1.0) * s for n, s in zip(self.shape, self.spacing, strict=True)
        ]  # fmt: skip
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def design(self, position: FloatArray) -> scipy.sparse.csr_array:
        """B-spline values at positions inside the image, shape (point, knot)."""
        index, values = self.taps(position)
        pointer = np.arange(len(index) + 1) * index.shape[1]
        return scipy.sparse.csr_array(
            (values.ravel(), index.ravel(), pointer), shape=(len(index), self.shape[0] * self.shape[1])
        )

    def taps(self, position: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """Ascending numbers of the 16 knots around each position, and the values of their B-splines there."""
        rows, cols = self.shape
        u = np.clip(position[:, 0] / self.spacing[0] + 1.0, 1.0, rows - 2.0 - 1e-9)
        v = np.clip(position[:, 1] / self.spacing[1] + 1.0, 1.0, cols - 2.0 - 1e-9)
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        wi, wj = cubic_bspline(u - i), cubic_bspline(v - j)
        offsets = np.arange(4) - 1
        index = (i[:, None, None] + offsets[:, None]) * cols + j[:, None, None] + offsets[None, :]
        values = wi.T[:, :, None] * wj.T[:, None, :]
        return index.reshape(-1, 16), values.reshape(-1, 16)

    def unit_smoothing(self, points: Points) -> float:
        """Weight of the penalty at which it equals the data, averaged over the knots."""
        return float(points.information(np.ones(points.size)).sum() / (self.shape[0] * self.shape[1]))

    @property
    def bandwidth(self) -> int:
        """Off-diagonals of the normal matrix."""
        return 3 * self.shape[1] + 3

    def banded(self, matrix: scipy.sparse.sparray) -> FloatArray:
        """Upper part of a symmetric matrix in LAPACK's banded storage."""
        entries = scipy.sparse.coo_array(matrix)
        row, col = entries.coords
        upper = col >= row
        out = np.zeros((self.bandwidth + 1, entries.shape[0]))
        np.add.at(out, (self.bandwidth + row[upper] - col[upper], col[upper]), entries.data[upper])
        return out

    def penalty(self) -> FloatArray:
        """Roughness of the coefficient lattice plus a weak pull towards zero, in banded storage.

        What is penalised are third differences. A penalty on second ones would flatten the field towards the borders
        of the image, where a wave's bend is known from one side only.
        """
        if "penalty" not in self._cache:
            rows, cols = self.shape
            total = MU * scipy.sparse.eye_array(rows * cols)
            for along_rows in range(4):
                parts = (_roughness(rows, along_rows), _roughness(cols, 3 - along_rows))
                total = total + comb(3, along_rows) * scipy.sparse.kron(*parts)
            self._cache["penalty"] = self.banded(total)
        return self._cache["penalty"]


def _dense(banded: FloatArray) -> FloatArray:
    """Symmetric matrix from the upper part in LAPACK's banded storage."""
    bandwidth, size = banded.shape[0] - 1, banded.shape[1]
    out = np.zeros((size, size))
    for k in range(min(bandwidth, size - 1) + 1):
        at = np.arange(size - k)
        out[at, at + k] = out[at + k, at] = banded[bandwidth - k, k:]
    return out


def _roughness(size: int, order: int) -> scipy.sparse.csr_array:
    if order == 0:
        return scipy.sparse.eye_array(size).tocsr()
    steps = difference(size, order)
    return (steps.T @ steps).tocsr()


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
        if not self._last or self._last[0].points is not points:
            plane = Polynomial(1, self.spline.height, self.spline.width)
            self._last[:] = [_SplineTerms.of(points, self.spline, self.trend or plane)]
        terms, full = self._last[0], points.information(weight)
        affine, weighted_value = terms.affine, points.value * full[:, None]
        normal = terms.normal(full)
        mixed = terms.transposed @ (affine * full[:, None])
        right = np.hstack([mixed, terms.transposed @ weighted_value])
        own = affine.T @ (affine * full[:, None]) + terms.trend.precision()
        size = affine.shape[1]
        for smoothing in smoothings:
            system = normal + max(smoothing, 1e-12) * self.spline.penalty()
            factor = scipy.linalg.cholesky_banded(system, overwrite_ab=True, check_finite=False)
            solved = scipy.linalg.cho_solve_banded((factor, False), right, check_finite=False)
            covariance = np.linalg.inv(own - mixed.T @ solved[:, :size])
            slopes = covariance @ (affine.T @ weighted_value - mixed.T @ solved[:, size:])
            coefficients = solved[:, size:] - solved[:, :size] @ slopes
            yield FittedSpline(self.spline, FittedTrend(terms.trend, slopes, covariance), coefficients, factor, normal)


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
        solved = scipy.linalg.cho_solve_banded((self.factor, False), normal, check_finite=False)
        return max(value, 0.0) / max(float(np.trace(solved)), 1e-9)

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement at positions."""
        return np.asarray(self.affine.at(position) + self.spline.design(position) @ self.coefficients)

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Contribution of each point, and what the penalty as a prior leaves open."""
        full = points.information(weight)
        at, plane_at = self.spline.design(position).toarray(), self.affine.model.design(position)
        of, plane_of = self.spline.design(points.position), self.affine.model.design(points.position) * full[:, None]
        solved = scipy.linalg.cho_solve_banded((self.factor, False), at.T, check_finite=False)
        solved_plane = scipy.linalg.cho_solve_banded((self.factor, False), of.T @ plane_of, check_finite=False)
        bent = np.asarray(of @ solved).T * full
        slope = plane_at - solved.T @ (of.T @ plane_of)
        covariance = self.affine.covariance
        influence = bent + slope @ covariance @ (plane_of - np.asarray(of @ solved_plane) * full[:, None]).T
        posterior = (at.T * solved).sum(axis=0) + np.einsum("ij,jk,ik->i", slope, covariance, slope)
        noise = influence**2 @ np.divide(1.0, full, out=np.zeros_like(full), where=full > 0)
        return influence, _OPEN_SHARE * np.sqrt(self.roughness) * np.maximum(posterior - noise, 0.0)

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units."""
        coefficients = self.coefficients
        if len(self.affine.coefficients) > 3:
            coefficients = coefficients + self._trend_as_spline()
        return _to_map(grid, self.affine.coefficients[:3], self.spline, coefficients, self.name)

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


def _to_map(
    grid: Grid, affine: FloatArray, spline: Spline | None, coefficients: FloatArray | None, name: str
) -> DisplacementField:
    """Turn pixel displacements (row, col) into metres (dx, dy) at map positions.

    ``affine`` holds the coefficients of 1, u, v with u = 2 row / height - 1 and v = 2 col / width - 1.
    """
    t = grid.transform
    height, width = (spline.height, spline.width) if spline is not None else grid.shape
    # u = 0 and v = 0 at row = height / 2 and col = width / 2, counted from pixel centres.
    centre_x, centre_y = (float(v) for v in grid.xy(height / 2, width / 2))
    per_metre = np.array([1.0, 2.0 / (width * t.a), 2.0 / (height * t.e)])
    metres = np.array([t.a, t.e])
    in_map = affine[[0, 2, 1]] * per_metre[:, None]
    lattice = None
    if spline is not None and coefficients is not None:
        x0, y0 = (float(v) for v in grid.xy(-spline.spacing[0], -spline.spacing[1]))
        shaped = coefficients.T.reshape(2, *spline.shape)
        lattice = Lattice(x0, y0, spline.spacing[1] * t.a, np.stack([shaped[1] * metres[0], shaped[0] * metres[1]]))
    values = np.stack([in_map[:, 1] * metres[0], in_map[:, 0] * metres[1]])
    return DisplacementField(values, (centre_x, centre_y), lattice, grid.crs, name)
