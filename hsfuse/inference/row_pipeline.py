"""A pipeline over rows of tiles: those of the next one are fused while the last ones of this row are.

Threads would else wait at the end of every row for the slowest tile, for sums to be encoded and for the next strip.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event

import numpy as np
from numpy.typing import NDArray

from hsfuse.inference.tiling import Tile

FloatCube = NDArray[np.float32]


class TileRow:
    """A row of tiles whose fusion has begun.

    Tiles may be fused, but not used, before the row above is finished.

    Parameters
    ----------
    use
        Takes each tile's result where it was made; returns how many samples it clipped.
    complete
        Runs once all were used.
    """

    def __init__(self, use: Callable[[Tile, FloatCube], int], complete: Callable[[], None]) -> None:
        self._use, self._complete = use, complete
        self._opened, self._given_up = Event(), False
        self._futures: list[Future[int]] = []
        self._here: Callable[[], int] | None = None

    def begin_here(self, work: Callable[[], int]) -> TileRow:
        """Fuse in the thread that finishes the row."""
        self._here = work
        return self

    def begin(self, futures: list[Future[int]]) -> TileRow:
        """Fuse in other threads, which have begun."""
        self._futures = futures
        return self

    def use(self, tile: Tile, data: FloatCube) -> int:
        """Wait until the row above is finished and use a tile's result."""
        self._opened.wait()
        return 0 if self._given_up else self._use(tile, data)

    def open(self) -> None:
        """Say that the row above is finished."""
        self._opened.set()

    def finish(self) -> int:
        """Wait for all tiles and complete the row; return the number of samples clipped."""
        try:
            clipped = self._here() if self._here is not None else sum(future.result() for future in self._futures)
        finally:
            self.give_up()
        self._complete()
        return clipped

    def give_up(self) -> None:
        """Use no further tile. Waits for those that are being fused: they read and write shared memory."""
        for future in self._futures:
            future.cancel()
        self._given_up = True
        self._opened.set()
        for future in self._futures:
            if not future.cancelled():
                future.exception()


class RowPipeline:
    """Finishes rows of tiles one after the other, each while tiles of the next one are fused already.

    Parameters
    ----------
    finished
        Called after each row with the number of samples that it clipped.
    """

    def __init__(self, finished: Callable[[int], None]) -> None:
        self._finished = finished
        self._row: TileRow | None = None

    def add(self, row: TileRow) -> None:
        """Finish the row before this one."""
        before, self._row = self._row, row
        if before is not None:
            self._finished(before.finish())
        row.open()

    def __enter__(self) -> RowPipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        row, self._row = self._row, None
        if row is not None and kind is None:
            self._finished(row.finish())
        elif row is not None:
            row.give_up()
