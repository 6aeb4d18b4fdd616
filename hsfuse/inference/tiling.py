"""Tiles as pure integer arithmetic on the HSI grid.

A tile has three nested blocks, all in HSI pixels: ``core`` (the cell of a partition), ``blend`` (core grown by the
overlap, where neighbours are averaged with weights) and ``read`` (blend grown by the halo, context that is computed
and thrown away). The fine grid follows by multiplying with the ratio. Nothing here knows about files or tensors.

Which columns a row of tiles is cut into is either the same for all rows (:meth:`TilePlan.row_of_tiles`) or follows
from the pixels that are wanted (:func:`hsfuse.inference.layout.tiles_around`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D

_LEAST_TILE_PX = 8
"""Of a core, HSI pixels: smaller ones would compute little but context."""


@dataclass(frozen=True)
class Tile:
    """One tile; see the module's description.

    ``row`` and ``col`` number it. ``above``, ``below``, ``left`` and ``right`` say on which sides it shares a zone
    with a neighbour.
    """

    row: int
    col: int
    core: Slice2D
    blend: Slice2D
    read: Slice2D
    above: bool = False
    below: bool = False
    left: bool = False
    right: bool = False

    @property
    def inner(self) -> Slice2D:
        """Where the blended block lies in what is read."""
        blend, read = self.blend, self.read
        return Slice2D(blend.row0 - read.row0, blend.row1 - read.row0, blend.col0 - read.col0, blend.col1 - read.col0)


@dataclass(frozen=True)
class TilePlan:
    """A partition of an image into overlapping tiles.

    Parameters
    ----------
    height, width
        Image shape in HSI pixels.
    tile
        Largest height of a core, in HSI pixels.
    overlap
        Total width of the zone that two neighbours share, in HSI pixels; each grows by half of it, so it is even.
    halo
        Context around the blended block.
    multiple
        ``read`` starts and ends at multiples of this, counted from the image's origin; it ends with the image.
    tile_width
        Largest width of a core; None: as ``tile``. Wide tiles need less memory than high ones, because memory
        holds whole rows of tiles.
    abreast
        Tiles of a row that are computed at the same time: where tiles are cut to fit, the cut shares the work evenly.
    first_row
        The first row of the partition: those above are finished, by another plan.
    padded
        Whether tiles that end with the image are filled up to whole multiples.
    """

    height: int
    width: int
    tile: int
    overlap: int = 0
    halo: int = 0
    multiple: int = 1
    tile_width: int | None = None
    abreast: int = 1
    first_row: int = 0
    padded: bool = True

    def __post_init__(self) -> None:
        if min(self.tile, self.columns) < 1 or self.overlap < 0 or self.halo < 0 or self.multiple < 1:
            raise UsageError("Tile, overlap, halo and multiple must not be negative.")
        if not 0 <= self.first_row < self.height:
            raise UsageError(f"Tiles cannot begin in row {self.first_row} of {self.height}.")
        if self.overlap % 2:
            raise UsageError(f"The overlap must be an even number of HSI pixels, not {self.overlap}.")
        if self.overlap > min(self.tile, self.columns):
            raise UsageError(
                f"The overlap ({self.overlap}) is larger than the tile ({self.tile}), both in HSI pixels.",
                hint="Choose a larger --tile or a smaller --overlap.",
            )

    def to_dict(self) -> dict[str, int | None]:
        """Return plain values; the constructor takes them back."""
        return asdict(self)

    @property
    def columns(self) -> int:
        """Largest width of a core."""
        return self.tile if self.tile_width is None else self.tile_width

    @property
    def whole_px(self) -> int:
        """Sides of what a method is given are multiples of this."""
        return self.multiple if self.padded else 1

    @property
    def row_edges(self) -> NDArray[np.int64]:
        """Row borders of the cores, from the first row to the height, as even as possible."""
        if self.alignment is not None:
            return _aligned_edges(self.first_row, self.height, self.tile, *self.alignment)
        edges = _edges(self.height - self.first_row, self.tile, self.overlap)
        return edges + self.first_row if self.first_row else edges

    @property
    def row_seams(self) -> NDArray[np.int64]:
        """Rows of the image at which tiles meet, the border to rows that another plan made included."""
        edges = self.row_edges
        return edges[(edges > 0) & (edges < self.height)]

    @property
    def col_edges(self) -> NDArray[np.int64]:
        """Column borders of the cores."""
        if self.alignment is not None:
            return _aligned_edges(0, self.width, self.columns, *self.alignment)
        return _edges(self.width, self.columns, self.overlap)

    @property
    def alignment(self) -> tuple[int, int] | None:
        """Step and first of the positions where borders lie that lengthen nothing that is read; None: all serve."""
        if self.padded or self.overlap or self.multiple < 2:
            return None
        return self.multiple, self.halo % self.multiple

    @property
    def shape(self) -> tuple[int, int]:
        """(tile rows, tile columns)."""
        return self.row_edges.size - 1, self.col_edges.size - 1

    @property
    def rows_read(self) -> int:
        """Rows that a column of tiles reads in sum."""
        return self._read(self.row_edges, self.height)

    @property
    def cols_read(self) -> int:
        """Columns that a row of tiles reads in sum."""
        return self._read(self.col_edges, self.width)

    def _read(self, edges: NDArray[np.int64], size: int) -> int:
        half = self.overlap // 2
        pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        padded = [self._padded(max(first - half, 0), min(last + half, size), size) for first, last in pairs]
        return sum(stop - start for start, stop in padded)

    def __len__(self) -> int:
        rows, cols = self.shape
        return rows * cols

    def tile_at(self, row: int, col: int) -> Tile:
        """Return one tile."""
        rows, cols = self.row_edges, self.col_edges
        core = Slice2D(int(rows[row]), int(rows[row + 1]), int(cols[col]), int(cols[col + 1]))
        half = self.overlap // 2
        grown = Slice2D(core.row0 - half, core.row1 + half, core.col0 - half, core.col1 + half)
        grown = grown.clipped(self.height, self.width)
        # Rows above the first are finished: they are context, and as much of it as any other tile has.
        blend = replace(grown, row0=max(grown.row0, self.first_row))
        return Tile(
            row, col, core, blend, self.around(grown),
            core.row0 > self.first_row, core.row1 < self.height, core.col0 > 0, core.col1 < self.width,
        )  # fmt: skip

    def around(self, blend: Slice2D) -> Slice2D:
        """Return what has to be read for a blended block: it and its context."""
        row0, row1 = self._padded(blend.row0, blend.row1, self.height)
        col0, col1 = self._padded(blend.col0, blend.col1, self.width)
        return Slice2D(row0, row1, col0, col1)

    def below(self, row: int) -> TilePlan:
        """Return equal tiles for the rows from ``row`` on; those above are finished."""
        return replace(self, first_row=row)

    def halved(self) -> TilePlan | None:
        """Return tiles of half the sides; None where they would be too small for their overlap."""
        least = max(2 * self.overlap, _LEAST_TILE_PX)
        side, width = (size if size <= least else max(size // 2, least) for size in (self.tile, self.columns))
        if (side, width) == (self.tile, self.columns):
            return None
        return replace(self, tile=side, tile_width=None if self.tile_width is None else width)

    def row_of_tiles(self, row: int) -> Iterator[Tile]:
        """Tiles of one row, from left to right."""
        for col in range(self.shape[1]):
            yield self.tile_at(row, col)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(self.shape[0]):
            yield from self.row_of_tiles(row)

    def finished_rows(self, row: int) -> int:
        """Rows (HSI pixels from the top) that no later tile row touches once tile row ``row`` is done."""
        if row + 1 >= self.shape[0]:
            return self.height
        return self.tile_at(row + 1, 0).blend.row0

    def _padded(self, start: int, stop: int, size: int) -> tuple[int, int]:
        start, stop = max(start - self.halo, 0), min(stop + self.halo, size)
        # Both on multiples counted from the image's origin: what a network does in windows of that size is then the
        # same in every tiling. At the image's end the engine pads.
        return start - start % self.multiple, min(stop + -stop % self.multiple, size)


@lru_cache(maxsize=256)
def _edges(size: int, tile: int, overlap: int) -> NDArray[np.int64]:
    count = max(-(-size // tile), 1)
    # Cores must not be narrower than the overlap, or three tiles would meet in one blending zone.
    while count > 1 and size // count < max(overlap, 1):
        count -= 1
    edges = np.linspace(0, size, count + 1).round().astype(np.int64)
    edges.flags.writeable = False
    return edges


@lru_cache(maxsize=256)
def _aligned_edges(first: int, last: int, tile: int, step: int, start: int) -> NDArray[np.int64]:
    """Borders from ``first`` to ``last``, those between at ``start`` and every ``step`` from there."""
    tile = max(tile // step, 1) * step
    wide = last - first + step - 1
    even = np.linspace(first, first + wide, max(-(-wide // tile), 1) + 1)[1:-1]
    inner = start + np.floor((even - start) / step).astype(np.int64) * step
    edges = np.unique(np.concatenate([[first], inner[(inner > first) & (inner < last)], [last]]))
    edges.flags.writeable = False
    return edges


def ramp_weights(tile: Tile, overlap: int, ratio: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of one tile: with those of its neighbours they sum to 1 at every pixel.

    Along each axis the weight rises as a raised cosine over the zone shared with a neighbour and is 1 elsewhere.

    Parameters
    ----------
    tile
        In HSI pixels.
    overlap
        Width of a shared zone, HSI pixels.
    ratio
        Fine pixels per HSI pixel.

    Returns
    -------
    (down, across)
        Weights of the fine rows and columns of ``tile.blend``, float32; a pixel's weight is their product.
    """
    block, core, width = tile.blend.scaled(ratio), tile.core.scaled(ratio), overlap * ratio
    down = _ramp(block.row0, block.row1, core.row0 if tile.above else None, core.row1 if tile.below else None, width)
    across = _ramp(block.col0, block.col1, core.col0 if tile.left else None, core.col1 if tile.right else None, width)
    return down, across


def _ramp(start: int, stop: int, rise: int | None, fall: int | None, overlap: int) -> NDArray[np.float32]:
    weights = np.ones(stop - start)
    position = np.arange(start, stop, dtype=np.float64) + 0.5
    if overlap and rise is not None:
        weights *= _rise((position - rise) / overlap + 0.5)
    if overlap and fall is not None:
        weights *= 1.0 - _rise((position - fall) / overlap + 0.5)
    return weights.astype(np.float32)


def _rise(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(t, 0.0, 1.0))
