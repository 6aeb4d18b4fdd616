"""Where a displacement field rests on measurements, and where it is carried on beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.field import FloatArray
from hsfuse.grid import Grid

_LATTICE_PX = 8


@dataclass(frozen=True)
class Support:
    """Measured points and how far a field may be believed around them.

    Attributes
    ----------
    x, y
        Claimed map positions of the points that made the field, shape (point,).
    reach_m
        Ground farther than this from all of them is extrapolated: the spline has no knot that a point holds there.
    """

    x: FloatArray
    y: FloatArray
    reach_m: float

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(np.stack([self.x, self.y], axis=1))

    def extrapolated(self, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
        """Whether claimed map positions lie beyond the reach of all points; shape as ``x``."""
        if not self.x.size:
            return np.ones(np.shape(x), dtype=np.bool_)
        position = np.stack([np.ravel(x), np.ravel(y)], axis=1)
        distance, _ = self._tree.query(position, distance_upper_bound=self.reach_m)
        return np.asarray(~np.isfinite(distance)).reshape(np.shape(x))

    def extrapolated_on(self, grid: Grid) -> NDArray[np.bool_]:
        """The same for the pixels of a grid in the points' reference system, shape (row, col), to eight pixels."""
        height, width = grid.shape
        rows = np.minimum(np.arange(0, height, _LATTICE_PX) + _LATTICE_PX // 2, height - 1)
        cols = np.minimum(np.arange(0, width, _LATTICE_PX) + _LATTICE_PX // 2, width - 1)
        row, col = np.meshgrid(rows.astype(float), cols.astype(float), indexing="ij")
        coarse = self.extrapolated(*grid.xy(row, col))
        return np.repeat(np.repeat(coarse, _LATTICE_PX, axis=0), _LATTICE_PX, axis=1)[:height, :width]
