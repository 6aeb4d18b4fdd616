"""A displacement field as one immutable value: an affine part plus a spline that dies out beyond the data.

A product claims that a pixel lies at map position ``q``. The field ``d`` is **added** to that claim: the ground seen
by the pixel lies at ``q + d(q)``. Positions and displacements are in the reference system of the product that is
corrected, x and y in metres.

The spline is a sum of uniform cubic B-splines with free coefficients on a regular lattice of knots. It is twice
differentiable, reproduces polynomials up to degree three, and becomes zero two knots beyond its lattice, so that
the field continues as an affine one where nothing was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS

from hsfuse.errors import InputError
from hsfuse.grid import Grid

FloatArray = NDArray[np.float64]

_POINTS_AT_ONCE = 1 << 18


def cubic_bspline(t: FloatArray) -> FloatArray:
    """Values of the four cubic B-splines that overlap a knot interval.

    Parameters
    ----------
    t
        Position inside the interval, 0 to 1, any shape.

    Returns
    -------
    numpy.ndarray
        Shape (4, ...), as ``t``; the four values sum to 1.
    """
    s = 1.0 - t
    return np.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3]) / 6.0


@dataclass(frozen=True)
class Lattice:
    """Knots of a uniform cubic B-spline in the plane.

    Attributes
    ----------
    x0, y0
        Map position of the first knot; x grows with the column and **y falls with the row** of the coefficients.
    spacing
        Distance of the knots in map units.
    coefficients
        Shape (2, row, col): of dx and of dy.
    """

    x0: float
    y0: float
    spacing: float
    coefficients: FloatArray

    def at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Spline values at points, shape (2, ...) as ``x``."""
        shape = x.shape
        out = np.empty((2, x.size))
        flat_x, flat_y = x.ravel(), y.ravel()
        for start in range(0, x.size, _POINTS_AT_ONCE):
            part = slice(start, start + _POINTS_AT_ONCE)
            out[:, part] = self._at_flat(flat_x[part], flat_y[part])
        return out.reshape(2, *shape)

    def on_axes(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Spline values at all pairs of positions along both axes, shape (2, y, x): splines are separable."""
        rows, cols = self.coefficients.shape[1:]
        across = _basis((x - self.x0) / self.spacing, cols)
        down = _basis((self.y0 - y) / self.spacing, rows)
        return np.asarray(down @ self.coefficients @ across.T)

    def _at_flat(self, x: FloatArray, y: FloatArray) -> FloatArray:
        rows, cols = self.coefficients.shape[1:]
        # Three rings of zeros: every position beyond them reads zeros only, so it may be clamped there.
        padded = np.pad(self.coefficients, ((0, 0), (3, 3), (3, 3)))
        u = np.clip((x - self.x0) / self.spacing, -2.0, cols + 1.0 - 1e-9) + 3.0
        v = np.clip((self.y0 - y) / self.spacing, -2.0, rows + 1.0 - 1e-9) + 3.0
        col, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        wx, wy = cubic_bspline(u - col), cubic_bspline(v - row)
        flat = padded.reshape(2, -1)
        total = np.zeros((2, x.size))
        for i in range(4):
            base = (row + i - 1) * (cols + 6) + col - 1
            for j in range(4):
                total += flat[:, base + j] * (wy[i] * wx[j])
        return total


def _basis(position: FloatArray, count: int) -> FloatArray:
    """Values of ``count`` B-splines at positions in units of their spacing, shape (position, spline)."""
    clipped = np.clip(position, -2.0, count + 1.0 - 1e-9)
    first = np.floor(clipped).astype(np.int64)
    out = np.zeros((position.size, count + 6))
    np.put_along_axis(out, first[:, None] + np.arange(2, 6), cubic_bspline(clipped - first).T, axis=1)
    return out[:, 3:-3]


@dataclass(frozen=True)
class DisplacementField:
    """Displacement in metres, to be added to claimed map positions.

    Attributes
    ----------
    affine
        Shape (2, 3): ``(dx, dy) = affine @ (1, x - centre_x, y - centre_y)``.
    centre
        Map position around which the affine part is written (for numerical accuracy).
    spline
        What the affine part leaves, or None.
    crs
        Reference system of positions and displacements; None for a field without one (the zero field).
    model
        What kind of field it is: ``zero``, ``shift``, ``affine``, ``spline``, ...
    """

    affine: FloatArray
    centre: tuple[float, float] = (0.0, 0.0)
    spline: Lattice | None = None
    crs: CRS | None = None
    model: str = "affine"

    def __post_init__(self) -> None:
        if self.affine.shape != (2, 3) or not np.isfinite(self.affine).all():
            raise InputError("A displacement field needs six finite affine coefficients.")

    @classmethod
    def zero(cls) -> Self:
        """The field that moves nothing."""
        return cls(np.zeros((2, 3)), model="zero")

    @classmethod
    def shift(cls, dx_m: float, dy_m: float, crs: CRS | None = None) -> Self:
        """The same displacement everywhere."""
        affine = np.zeros((2, 3))
        affine[:, 0] = dx_m, dy_m
        return cls(affine, crs=crs, model="shift")

    @property
    def is_constant(self) -> bool:
        """True when the displacement is the same everywhere."""
        return self.spline is None and not self.affine[:, 1:].any()

    def at(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Displacement at **claimed** positions.

        Parameters
        ----------
        x, y
            Map coordinates, equal shapes.

        Returns
        -------
        (dx_m, dy_m)
            To be added to ``x`` and ``y``.
        """
        xs, ys = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        a, (cx, cy) = self.affine, self.centre
        dx = a[0, 0] + a[0, 1] * (xs - cx) + a[0, 2] * (ys - cy)
        dy = a[1, 0] + a[1, 1] * (xs - cx) + a[1, 2] * (ys - cy)
        if self.spline is not None:
            bend = self.spline.at(xs, ys)
            dx, dy = dx + bend[0], dy + bend[1]
        return dx, dy

    def claimed(self, x: ArrayLike, y: ArrayLike, *, iterations: int = 6) -> tuple[FloatArray, FloatArray]:
        """Claimed positions of the pixels that see the **true** positions ``x``, ``y`` (the inverse mapping).

        The fixed-point iteration ``q = p - d(q)`` gains a factor equal to the field's gradient (well below 0.1) per
        step, so six steps leave micrometres.
        """
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        dx, dy = self.at(xs, ys)
        if not self.is_constant:
            for _ in range(iterations):
                dx, dy = self.at(xs - dx, ys - dy)
        return xs - dx, ys - dy

    def shifted(self, dx_m: float, dy_m: float) -> Self:
        """The field with a constant displacement added (a detector that is misaligned with the other)."""
        affine = self.affine.copy()
        affine[:, 0] += dx_m, dy_m
        return replace(self, affine=affine, model="shift" if self.model == "zero" else self.model)

    def on_grid(self, grid: Grid) -> NDArray[np.float32]:
        """Displacement (dx, dy) at the pixel centres of a grid in the field's system, shape (2, row, col)."""
        x, _ = grid.xy(0.0, np.arange(grid.width, dtype=np.float64))
        _, y = grid.xy(np.arange(grid.height, dtype=np.float64), 0.0)
        xs, ys = np.asarray(x - self.centre[0])[None, :], np.asarray(y - self.centre[1])[:, None]
        out = np.empty((2, *grid.shape), dtype=np.float32)
        bend = np.zeros((2, 1, 1)) if self.spline is None else self.spline.on_axes(np.asarray(x), np.asarray(y))
        for axis, (constant, along_x, along_y) in enumerate(self.affine):
            out[axis] = constant + along_x * xs + along_y * ys + bend[axis]
        return out

    def to_json(self) -> dict[str, Any]:
        """Everything that is needed to rebuild the field, as plain JSON values."""
        spline = self.spline and {
            "x0": self.spline.x0,
            "y0": self.spline.y0,
            "spacing": self.spline.spacing,
            "coefficients": self.spline.coefficients.tolist(),
        }
        return {
            "model": self.model,
            "affine": self.affine.tolist(),
            "centre": list(self.centre),
            "spline": spline,
            "crs": self.crs.to_wkt() if self.crs else None,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Rebuild a field from :meth:`to_json`."""
        spline = values["spline"]
        lattice = spline and Lattice(
            float(spline["x0"]), float(spline["y0"]), float(spline["spacing"]),
            np.asarray(spline["coefficients"], dtype=np.float64),
        )  # fmt: skip
        centre = (float(values["centre"][0]), float(values["centre"][1]))
        crs = CRS.from_wkt(values["crs"]) if values["crs"] else None
        return cls(np.asarray(values["affine"], dtype=np.float64), centre, lattice, crs, str(values["model"]))
