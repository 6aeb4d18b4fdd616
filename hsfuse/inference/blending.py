"""A rolling strip: sums weighted tiles and hands out rows as soon as no later tile can touch them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.inference.tiling import Tile, TilePlan, ramp_weights


class RollingStrip:
    """Accumulates one row of tiles (plus what overlaps into the next) on the fine grid.

    Weights of all tiles sum to 1 at each pixel by construction, so no weight image is kept and nothing is
    divided: a pixel covered by one tile only is copied bit for bit.

    Parameters
    ----------
    plan
        Tile plan in HSI pixels.
    n_bands
        Bands of the result.
    ratio
        Fine pixels per HSI pixel.
    first_tile_row
        Tile row to start with (greater than 0 when a run is resumed).
    """

    def __init__(self, plan: TilePlan, n_bands: int, ratio: int, first_tile_row: int = 0) -> None:
        self._plan, self._ratio, self._bands = plan, ratio, n_bands
        self._top = plan.finished_rows(first_tile_row - 1) if first_tile_row else 0
        rows = self._reach(first_tile_row) - self._top * ratio
        self._buffer = np.zeros((n_bands, rows, plan.width * ratio), np.float32)

    def _reach(self, tile_row: int) -> int:
        """Fine row below the last one that tiles up to ``tile_row`` touch."""
        return self._plan.tile_at(tile_row, 0).blend.row1 * self._ratio

    def add(self, tile: Tile, data: NDArray[np.float32]) -> None:
        """Add one tile's blended block, shape (band, row, col) on the fine grid."""
        r, plan = self._ratio, self._plan
        overlap = plan.overlap * r
        block, core = tile.blend.scaled(r), tile.core.scaled(r)
        offset = self._top * r
        # A resumed run re-computes the tile row that reaches into finished rows: those are skipped.
        skip = max(offset - block.row0, 0)
        rows = slice(block.row0 + skip - offset, block.row1 - offset)
        columns = slice(block.col0, block.col1)
        data = data[:, skip:]
        if overlap == 0:
            self._buffer[:, rows, columns] = data
            return
        weight = ramp_weights(block, core, overlap, (plan.height * r, plan.width * r))[skip:]
        if weight.min() == 1.0:
            self._buffer[:, rows, columns] = data
        else:
            self._buffer[:, rows, columns] += data * weight

    @property
    def top(self) -> int:
        """First fine row that has not been handed out."""
        return self._top * self._ratio

    def finished(self, tile_row: int) -> tuple[int, NDArray[np.float32]]:
        """Return the rows that are finished after ``tile_row``: a view that :meth:`advance` invalidates.

        Returns
        -------
        (row0, rows)
            First fine row and the data, shape (band, row, col).
        """
        count = (self._plan.finished_rows(tile_row) - self._top) * self._ratio
        return self.top, self._buffer[:, :count]

    def advance(self, tile_row: int) -> None:
        """Drop the finished rows and make room for the next row of tiles."""
        r = self._ratio
        stop = self._plan.finished_rows(tile_row)
        count = (stop - self._top) * r
        if tile_row + 1 < self._plan.shape[0]:
            kept = self._buffer.shape[1] - count
            rows = self._reach(tile_row + 1) - stop * r
            if rows > self._buffer.shape[1]:
                grown = np.zeros((self._bands, rows, self._buffer.shape[2]), np.float32)
                grown[:, :kept] = self._buffer[:, count:]
                self._buffer = grown
            else:
                for band in self._buffer:  # one band at a time: the copy that protects the overlap stays small
                    band[:kept] = band[count:].copy()
                    band[kept:] = 0.0
        self._top = stop
