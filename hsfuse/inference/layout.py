"""Tiles where pixels are wanted: a row of tiles is cut and trimmed so that little is computed for nothing.

The footprint of a satellite scene lies askew on its grid and has holes where clouds are, so regular tiles compute
much that is masked afterwards. Here the columns of each row of tiles are cut anew: a search over borders, every
:data:`CELL_PX` pixels, finds the cut whose blocks, trimmed to the wanted pixels and grown by their context, are
smallest in sum. Trimmed tiles keep a full halo of context around every wanted pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.tiling import Tile, TilePlan

CELL_PX = 8
"""Borders between tiles lie on multiples of this, HSI pixels."""
_TILE_COST_PX = 150
"""What a tile costs beyond its pixels, in HSI pixels: calls of many small operations."""
_WIDTHS = (1.0, 0.88, 0.75, 0.63, 0.5, 0.38)
"""Widest tiles to try, as shares of the plan's, where several threads should finish a row together."""
_LEAST_SIDE_PX = 16
"""Methods are not given narrower images where the scene is larger."""

BoolArray = NDArray[np.bool_]


def tiles_around(plan: TilePlan, tile_row: int, wanted: BoolArray) -> list[Tile]:
    """Cut a row of tiles so that the wanted pixels are covered with little besides.

    Parameters
    ----------
    plan
        Height of the rows, widest tile, overlap and halo.
    tile_row
        Which row.
    wanted
        HSI pixels that are needed of the rows that this row of tiles touches (its blended block), all columns,
        shape (row, plan.width).

    Returns
    -------
    list of Tile
        From left to right; empty when nothing is wanted.
    """
    first = plan.tile_at(tile_row, 0)
    cuts = _fair_cut(plan, wanted)
    rows = first.core
    half = plan.overlap // 2
    tiles: list[Tile] = []
    for col0, col1 in cuts:
        left = any(other[1] == col0 for other in cuts)
        right = any(other[0] == col1 for other in cuts)
        reach = slice(col0 - half if left else col0, col1 + half if right else col1)
        box = _box(wanted[:, reach])
        if box is None:
            continue
        top, start = first.blend.row0, reach.start
        blend = Slice2D(top + box.row0, top + box.row1, start + box.col0, start + box.col1)
        read = _inside(plan.around(blend), first.read, plan.width)
        core = Slice2D(rows.row0, rows.row1, col0, col1)
        tiles.append(Tile(tile_row, len(tiles), core, blend, read, first.above, first.below, left, right))
    return tiles


def computed_pixels(plan: TilePlan, wanted: BoolArray) -> int:
    """HSI pixels that are read and computed for the wanted ones of the whole plan, context and overlap included."""
    total = 0
    for tile_row in range(plan.shape[0]):
        block = plan.tile_at(tile_row, 0).blend
        for tile in tiles_around(plan, tile_row, wanted[block.row0 : block.row1]):
            height, width = tile.read.shape
            total += height * width
    return total


def _cell_edges(plan: TilePlan) -> list[int]:
    """Where borders may lie. No cell is narrower than the overlap, or three tiles would meet in one zone."""
    if plan.alignment is not None:
        every, first = plan.alignment
        return [0, *range(first or every, plan.width, every), plan.width]
    step = max(CELL_PX, plan.overlap)
    return [*range(0, max(plan.width - step, 0) + 1, step)[: max(plan.width // step, 1)], plan.width]


class _Part(NamedTuple):
    """Columns [first, last) of a tile and what it costs."""

    first: int
    last: int
    cost: float


def _fair_cut(plan: TilePlan, wanted: BoolArray) -> list[tuple[int, int]]:
    """Return columns [first, last) of tiles that are done soonest when so many run side by side."""
    edges = _cell_edges(plan)
    widths = sorted({max(int(plan.columns * share), edges[1]) for share in _WIDTHS[: 1 if plan.abreast < 2 else None]})
    cuts = [_best_cut(plan, edges, wanted, width) for width in widths[::-1]]
    fairest = min(cuts, key=lambda cut: _duration(cut, plan.abreast))
    return [(part.first, part.last) for part in fairest]


def _duration(cut: list[_Part], abreast: int) -> float:
    """When the last tile is done, the dearest started first."""
    busy = [0.0] * max(abreast, 1)
    for part in sorted(cut, key=lambda part: -part.cost):
        busy[busy.index(min(busy))] += part.cost
    return max(busy)


def _best_cut(plan: TilePlan, edges: list[int], wanted: BoolArray, widest: int) -> list[_Part]:
    """Return tiles that cover all wanted pixels at the least cost."""
    height = wanted.shape[0]
    some = wanted.any(axis=0)
    highest = np.where(some, wanted.argmax(axis=0), height)
    lowest = np.where(some, height - wanted[::-1].argmax(axis=0), 0)
    starts = edges[:-1]
    top = np.minimum.reduceat(highest, starts).tolist()
    bottom = np.maximum.reduceat(lowest, starts).tolist()
    context, across = 2 * plan.halo, 2 * plan.halo + plan.overlap
    count = len(starts)
    cost: list[float] = [0.0] + [float("inf")] * count
    before: list[int] = [0] * (count + 1)
    for i in range(count):
        if bottom[i] == 0 and cost[i] < cost[i + 1]:  # nothing wanted here: no tile
            cost[i + 1], before[i + 1] = cost[i], -1
        high, low = height, 0
        for j in range(i, count):
            width = edges[j + 1] - edges[i]
            if width > widest and j > i:
                break
            high, low = min(high, top[j]), max(low, bottom[j])
            if low == 0:
                continue
            total = cost[i] + (width + across) * (low - high + context) + _TILE_COST_PX
            if total < cost[j + 1]:
                cost[j + 1], before[j + 1] = total, i
    cuts: list[_Part] = []
    at = count
    while at > 0:
        if before[at] < 0:
            at -= 1
            continue
        cuts.append(_Part(edges[before[at]], edges[at], cost[at] - cost[before[at]]))
        at = before[at]
    return cuts[::-1]


def _box(wanted: BoolArray) -> Slice2D | None:
    """Smallest block that holds all wanted pixels; None when there are none."""
    rows, cols = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not rows.size:
        return None
    return Slice2D(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)


def _inside(read: Slice2D, strip: Slice2D, width: int) -> Slice2D:
    """Grow a block until no side is too short, and move it into the rows that are read of the scene at a time."""
    row0, row1 = _grown(read.row0, read.row1, strip.row0, strip.row1)
    col0, col1 = _grown(read.col0, read.col1, 0, width)
    return Slice2D(row0, row1, col0, col1)


def _grown(start: int, stop: int, least: int, most: int) -> tuple[int, int]:
    size = min(max(stop - start, _LEAST_SIDE_PX), most - least)
    start = max(min(start, most - size), least)
    return start, start + size
