"""Where the pixels of overlapping tiles go: those of one tile straight on, those that tiles share into sums.

Only the zones that tiles share are kept as sums: one line of them above and below a row of tiles, and one between
each two neighbours. All else is handed on by whoever computed it.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.tiling import Tile, TilePlan, ramp_weights

FloatCube = NDArray[np.float32]


class Finished(NamedTuple):
    """Finished pixels: their block in the rows that the row of tiles finishes, and (band, row, col)."""

    block: Slice2D
    data: FloatCube


class TileBlender:
    """Blends one row of tiles after the other.

    Weights of all tiles sum to 1 at each wanted pixel by construction, so no weight image is kept and nothing is
    divided: a pixel covered by one tile only is passed on bit for bit. Tiles may be added from several threads; sums
    do not depend on their order, because a row of tiles has at most two at any place.

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
        self._zone = plan.overlap * ratio
        self._inherited, self._own, self._next = (self._zeros(self._zone, plan.width * ratio) for _ in range(3))
        self._seams: dict[int, FloatCube] = {}
        self._lock = Lock()
        self._start(first_tile_row)

    def _zeros(self, rows: int, cols: int) -> FloatCube:
        return np.zeros((self._bands, rows, cols), np.float32)

    def _start(self, tile_row: int) -> None:
        """Lay out a row of tiles, in fine rows of the image."""
        tile, half = self._plan.tile_at(tile_row, 0), self._zone // 2
        core = tile.core.scaled(self._ratio)
        self._top = core.row0 - half if tile.above else core.row0
        self._inner0 = core.row0 + half if tile.above else core.row0
        self._inner1 = core.row1 - half if tile.below else core.row1

    @property
    def rows(self) -> tuple[int, int]:
        """Fine rows [first, last) that are finished with the present row of tiles."""
        return self._top, self._inner1

    def add(self, tile: Tile, data: FloatCube) -> list[Finished]:
        """Add a tile's blended block, shape (band, row, col) on the fine grid; return what needs no other tile.

        What is returned are views of ``data``.
        """
        block, down_across = tile.blend.scaled(self._ratio), ramp_weights(tile, self._plan.overlap, self._ratio)
        down, across = down_across
        columns = slice(block.col0, block.col1)
        for sums, first, last in (
            (self._own, self._top, self._inner0),
            (self._next, self._inner1, self._inner1 + self._zone),
        ):
            row0, row1 = max(first, block.row0), min(last, block.row1)
            if row0 < row1:
                part = slice(row0 - block.row0, row1 - block.row0)
                target = sums[:, row0 - first : row1 - first, columns]
                self._add(target, data[:, part], down[part, None] * across)
        row0, row1 = max(self._inner0, block.row0), min(self._inner1, block.row1)
        if row0 >= row1:
            return []
        rows = slice(row0 - block.row0, row1 - block.row0)
        col0, col1 = block.col0, block.col1
        half, core = self._zone // 2, tile.core.scaled(self._ratio)
        if tile.left:
            col0 = max(core.col0 + half, col0)
            self._add_seam(core.col0, block, data, rows, across)
        if tile.right:
            col1 = min(core.col1 - half, col1)
            self._add_seam(core.col1, block, data, rows, across)
        if col0 >= col1:
            return []
        inner = data[:, rows, col0 - block.col0 : col1 - block.col0]
        return [Finished(Slice2D(row0 - self._top, row1 - self._top, col0, col1), inner)]

    def _add_seam(self, border: int, block: Slice2D, data: FloatCube, rows: slice, across: NDArray[np.float32]) -> None:
        """Add what a tile brings to the zone around a border between columns."""
        first = border - self._zone // 2
        col0, col1 = max(first, block.col0), min(first + self._zone, block.col1)
        if col0 >= col1:
            return
        with self._lock:
            if border not in self._seams:
                self._seams[border] = self._zeros(self._inner1 - self._inner0, self._zone)
            sums = self._seams[border]
        top = block.row0 + rows.start - self._inner0
        cols = slice(col0 - block.col0, col1 - block.col0)
        target = sums[:, top : top + rows.stop - rows.start, col0 - first : col1 - first]
        self._add(target, data[:, rows, cols], across[None, cols])

    def _add(self, target: FloatCube, data: FloatCube, weight: NDArray[np.float32]) -> None:
        weighted = data * weight
        with self._lock:
            target += weighted

    def shared(self) -> list[Finished]:
        """Return the finished pixels that several tiles share, once all tiles of the row were added.

        Views that :meth:`advance` invalidates. Call once a row.
        """
        found: list[Finished] = []
        if self._inner0 > self._top:
            total = np.add(self._inherited, self._own, out=self._inherited)
            found.append(Finished(Slice2D(0, self._inner0 - self._top, 0, total.shape[2]), total))
        rows = (self._inner0 - self._top, self._inner1 - self._top)
        if rows[0] < rows[1]:
            for border, sums in sorted(self._seams.items()):
                first = border - self._zone // 2
                found.append(Finished(Slice2D(*rows, first, first + self._zone), sums))
        return found

    def advance(self, tile_row: int) -> None:
        """Go on to the row of tiles after ``tile_row``."""
        if tile_row + 1 >= self._plan.shape[0]:
            return
        self._inherited, self._next = self._next, self._inherited
        self._own.fill(0.0)
        self._next.fill(0.0)
        self._seams.clear()
        self._start(tile_row + 1)
