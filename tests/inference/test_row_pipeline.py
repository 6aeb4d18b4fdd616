"""A pipeline over rows of tiles: fused side by side, used one after the other, left in order when something fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from hsfuse.grid import Slice2D
from hsfuse.inference.row_pipeline import RowPipeline, TileRow
from hsfuse.inference.tiling import Tile

WAIT_S = 30.0
BLOCK = Slice2D(0, 1, 0, 1)
DATA = np.zeros((1, 1, 1), np.float32)


def tile(row: int) -> Tile:
    return Tile(row, 0, BLOCK, BLOCK, BLOCK)


def test_tiles_of_the_next_row_are_fused_but_not_used_before_a_row_is_finished() -> None:
    events: list[str] = []
    fused, go = Event(), Event()

    def row(number: int, pool: ThreadPoolExecutor) -> TileRow:
        def use(at: Tile, _: object) -> int:
            events.append(f"use {at.row}")
            return at.row + 1

        made = TileRow(use, lambda: events.append(f"complete {number}"))

        def work() -> int:
            if number == 0:
                assert go.wait(WAIT_S)
            else:
                fused.set()
            return made.use(tile(number), DATA)

        return made.begin([pool.submit(work)])

    clipped: list[int] = []
    with ThreadPoolExecutor(3) as pool, RowPipeline(clipped.append) as pipeline:
        pipeline.add(row(0, pool))
        second = row(1, pool)
        assert fused.wait(WAIT_S)  # while the first row still waits
        assert not events
        go.set()
        pipeline.add(second)
    assert events == ["use 0", "complete 0", "use 1", "complete 1"]
    assert clipped == [1, 2]


@pytest.mark.parametrize("where", ["tile", "completion", "outside"])
def test_a_failure_leaves_without_waiting_for_a_turn_that_never_comes(where: str) -> None:
    used: list[int] = []

    def row(number: int, pool: ThreadPoolExecutor) -> TileRow:
        def use(at: Tile, _: object) -> int:
            used.append(at.row)
            if where == "tile":
                raise ValueError(where)
            return 0

        def complete() -> None:
            if where == "completion":
                raise ValueError(where)

        made = TileRow(use, complete)
        return made.begin([pool.submit(lambda: made.use(tile(number), DATA)) for _ in range(4)])

    def all_rows() -> None:
        with ThreadPoolExecutor(2) as pool, RowPipeline(lambda _: None) as pipeline:
            pipeline.add(row(0, pool))
            second = row(1, pool)
            if where == "outside":
                pipeline._row, first = second, pipeline._row
                assert first is not None
                first.finish()
                raise ValueError(where)
            pipeline.add(second)

    with pytest.raises(ValueError, match=where):
        all_rows()
    assert 1 not in used


def test_without_threads_a_row_is_fused_when_its_turn_comes() -> None:
    events: list[str] = []
    with RowPipeline(lambda count: events.append(f"done {count}")) as pipeline:
        for number in range(2):
            row = TileRow(lambda _tile, _data: 2, lambda: events.append("complete"))
            pipeline.add(row.begin_here(lambda row=row, number=number: row.use(tile(number), DATA)))
    assert events == ["complete", "done 2"] * 2
