"""Lattice of B-splines over an image in pixel coordinates: values, roughness penalty, conversion to map units."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField, Lattice, cubic_bspline
from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.trend import MU, difference
from hsfuse.grid import Grid


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


def _roughness(size: int, order: int) -> scipy.sparse.csr_array:
    if order == 0:
        return scipy.sparse.eye_array(size).tocsr()
    steps = difference(size, order)
    return (steps.T @ steps).tocsr()


def to_map(
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
