"""How layers of larger pixels lie on the finest grid of a product, and how they reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid, Slice2D

Pixel = TypeVar("Pixel", np.uint8, np.float32)


@dataclass(frozen=True)
class Placement:
    """Where a layer of ``ratio`` times larger pixels lies on the fine grid.

    Attributes
    ----------
    ratio
        Fine pixels per layer pixel along each axis.
    row0, col0
        Fine pixel at the layer's upper-left corner.
    height, width
        Shape of the layer in its own pixels.
    """

    ratio: int
    row0: int
    col0: int
    height: int
    width: int

    @classmethod
    def of(cls, layer: Grid, fine: Grid) -> Placement | None:
        """Work out the placement; None when pixel sizes or edges do not nest."""
        ratio = round(layer.pixel_m / fine.pixel_m)
        col = (layer.bounds.left - fine.bounds.left) / fine.pixel_m
        row = (fine.bounds.top - layer.bounds.top) / fine.pixel_m
        off = max(abs(layer.pixel_m - ratio * fine.pixel_m), abs(col - round(col)), abs(row - round(row)))
        if ratio < 1 or off > 1e-3:
            return None
        return cls(ratio, round(row), round(col), layer.height, layer.width)

    def source(self, block: Slice2D, margin: int = 0) -> Slice2D:
        """Layer pixels under a fine block, with ``margin`` more on each side where there are any."""
        r = self.ratio
        grown = Slice2D(
            (block.row0 - self.row0) // r - margin,
            -((self.row0 - block.row1) // r) + margin,
            (block.col0 - self.col0) // r - margin,
            -((self.col0 - block.col1) // r) + margin,
        )
        return grown.clipped(self.height, self.width)

    def nearest(self, values: NDArray[Pixel], source: Slice2D, block: Slice2D, fill: int = 0) -> NDArray[Pixel]:
        """Give each fine pixel of ``block`` the layer pixel that contains it; ``fill`` outside the layer."""
        out = np.full((*values.shape[:-2], *block.shape), fill, values.dtype)
        rows = (np.arange(block.row0, block.row1) - self.row0) // self.ratio
        cols = (np.arange(block.col0, block.col1) - self.col0) // self.ratio
        row_in = np.flatnonzero((rows >= 0) & (rows < self.height))
        col_in = np.flatnonzero((cols >= 0) & (cols < self.width))
        if row_in.size and col_in.size:
            # Both lie in one piece; one axis after the other is several times faster than both at once.
            taken = values.take(cols[col_in] - source.col0, axis=-1).take(rows[row_in] - source.row0, axis=-2)
            out[..., row_in[0] : row_in[-1] + 1, col_in[0] : col_in[-1] + 1] = taken
        return out

    def bilinear(self, values: NDArray[np.float32], source: Slice2D, block: Slice2D) -> NDArray[np.float32]:
        """Interpolate layer pixels (row, col) at the fine pixels of ``block``, NaN-aware.

        ``source`` must come from :meth:`source` with ``margin=1``. A fine pixel is NaN where the layer pixel that
        contains it is; missing neighbours are left out of the mean; the layer's border pixels are repeated.
        """
        missing = np.isnan(values)
        if not missing.any():
            return self._weighted(values, source, block)
        total = self._weighted(np.where(missing, np.float32(0), values), source, block)
        share = self._weighted((~missing).astype(np.float32), source, block)
        outside = self.nearest(missing.astype(np.uint8), source, block, fill=1).astype(bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / share
        mean[outside] = np.nan
        return mean

    def _weighted(self, values: NDArray[np.float32], source: Slice2D, block: Slice2D) -> NDArray[np.float32]:
        top, bottom, down = self._axis(block.row0, block.row1, self.row0, self.height, source.row0)
        left, right, across = self._axis(block.col0, block.col1, self.col0, self.width, source.col0)
        rows = values[top] * (1 - down)[:, None] + values[bottom] * down[:, None]
        return np.asarray(rows[:, left] * (1 - across) + rows[:, right] * across, dtype=np.float32)

    def _axis(
        self, start: int, stop: int, origin: int, size: int, source0: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Both neighbours of each fine pixel along one axis, and the weight of the second."""
        # Pixel centres: fine pixel i lies at (i + 0.5) / ratio - 0.5 in layer pixels.
        position = (np.arange(start, stop) - origin + 0.5) / self.ratio - 0.5
        first = np.floor(position).astype(np.int64)
        weight = (position - first).astype(np.float32)
        low = np.clip(first, 0, size - 1) - source0
        high = np.clip(first + 1, 0, size - 1) - source0
        return low, high, weight
