"""When a GPU's memory is too small for a single tile: what is left of the scene is fused in smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.inference.device_pipeline import TileMemoryError
from hsfuse.inference.handover import Sink
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tiling import TilePlan
from hsfuse.log import get_logger

_log = get_logger(__name__)

_FEWER_TILES = 2
"""Tiles per call after the tile was halved: it has a quarter of the pixels, and is halved once more if need be."""


class Fuse(Protocol):
    """:func:`hsfuse.inference.engine.fuse_scene_tiles` with all that stays the same filled in."""

    def __call__(
        self, plan: TilePlan, sink: Sink, *, batch: int, rows_done: int, statistics: FusionStatistics
    ) -> FusionStatistics:
        """Fuse the rows that are left."""
        ...


def fuse_backing_off(
    fuse: Fuse,
    plan: TilePlan,
    sink: Sink,
    *,
    ratio: int,
    batch: int,
    statistics: FusionStatistics,
    rows_done: int = 0,
    changed: Callable[[TilePlan], None] | None = None,
) -> FusionStatistics:
    """Fuse a scene; where a single tile does not fit, the rows that are left get tiles of half the side.

    Rows that were handed over stay as they are. Those below begin with as much context as any other tile has, so the
    border between both plans is a seam like that between two tiles, without blending.

    Parameters
    ----------
    fuse
        Fuses with a plan from a row on.
    plan, sink, batch, rows_done
        As for :func:`~hsfuse.inference.engine.fuse_scene_tiles`; rows that end nowhere in this plan were made by
        another one.
    ratio
        Fine pixels per HSI pixel.
    statistics
        What was counted of the rows that are done; it is added to.
    changed
        Is given each new plan before its first row is handed over.

    Raises
    ------
    MemoryBudgetError
        Not even a tile of the smallest size fits.
    """
    done = rows_done
    if rows_done and rows_done not in ends_of_rows(plan, ratio):
        plan = plan.below(rows_done // ratio)

    def counted(row0: int, data: NDArray[Any]) -> None:
        nonlocal done
        sink(row0, data)
        done = row0 + data.shape[1]

    while True:
        try:
            return fuse(plan, counted, batch=batch, rows_done=done, statistics=statistics)
        except TileMemoryError as error:
            smaller, message = plan.halved(), error.message
        if smaller is None:
            raise MemoryBudgetError(
                f"{message.rstrip('.')}, the smallest there are.",
                hint="End what else uses the GPU, or choose --device cpu; --resume keeps the rows that are done.",
            )
        _log.warning("%s The %d rows that are left go on with tiles of %d.", message,
                     plan.height - done // ratio, smaller.tile)  # fmt: skip
        left = sum(plan.finished_rows(tile_row) * ratio > done for tile_row in range(plan.shape[0]))
        statistics.tiles -= left * plan.shape[1]
        plan, batch = smaller.below(done // ratio), _FEWER_TILES
        if changed is not None:
            changed(plan)


def ends_of_rows(plan: TilePlan, ratio: int) -> set[int]:
    """Fine rows after which the sink may be left alone: ends of the plan's rows of tiles, and where they begin."""
    ends = {plan.finished_rows(tile_row) * ratio for tile_row in range(plan.shape[0])}
    return ends | {plan.first_row * ratio}
