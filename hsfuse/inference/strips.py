"""Strips of a scene for one row of tiles after the other: each row of the images is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_strips import RawStrip, SceneStrip
from hsfuse.inference.tiling import TilePlan


class StripReader:
    """Reads the strips of successive rows of tiles; what two of them share is kept, not read again.

    Parameters
    ----------
    scene
        Where pixels come from.
    plan
        Tiles on ``scene.grid``.
    raw
        Reads rows as they are; None: the scene does when they are wanted.
    """

    def __init__(self, scene: FusionScene, plan: TilePlan, raw: Callable[[Slice2D], RawStrip] | None = None) -> None:
        self._scene, self._plan, self._raw = scene, plan, raw or scene.read_raw
        self._kept: RawStrip | None = None

    def read(self, tile_row: int) -> SceneStrip:
        """Read the strip of a row of tiles; call with ascending rows."""
        block = rows_of(self._plan, tile_row)
        kept, self._kept = self._kept, None
        if kept is not None and kept.rows.row0 <= block.row0 < kept.rows.row1:
            kept = kept if kept.rows.row0 == block.row0 else kept.below(block.row0, self._scene.ratio)
            new = Slice2D(kept.rows.row1, block.row1, block.col0, block.col1)
            raw = kept.then(self._raw(new)) if new.shape[0] > 0 else kept
        else:
            raw = self._raw(block)
        if tile_row + 1 < self._plan.shape[0]:
            following = rows_of(self._plan, tile_row + 1)
            if following.row0 < block.row1:
                # Before gaps are filled: stand-ins depend on the strip that they are made for.
                self._kept = raw.below(following.row0, self._scene.ratio)
        return self._scene.complete(raw)


class _RowsAhead:
    """Rows that :class:`StripReader` will ask for, read by threads in the order in which it does."""

    def __init__(self, scene: FusionScene, plan: TilePlan, start: int, count: int, threads: Executor) -> None:
        self._scene, self._threads = scene, threads
        self._to_come = _new_rows(plan, start)
        self._waiting: deque[tuple[Slice2D, Future[RawStrip]]] = deque()
        for _ in range(count):
            self._begin()

    def _begin(self) -> None:
        block = next(self._to_come, None)
        if block is not None:
            self._waiting.append((block, self._threads.submit(self._scene.read_raw, block)))

    def __call__(self, block: Slice2D) -> RawStrip:
        expected, future = self._waiting.popleft()
        if expected != block:
            raise ValueError(f"rows {expected} were read ahead, {block} are wanted")
        found = future.result()
        self._begin()
        return found


def rows_of(plan: TilePlan, tile_row: int) -> Slice2D:
    """Full-width rows that a row of tiles looks at."""
    read = plan.tile_at(tile_row, 0).read
    return Slice2D(read.row0, read.row1, 0, plan.width)


def _new_rows(plan: TilePlan, start: int) -> Iterator[Slice2D]:
    """Rows of each row of tiles that those above it have not, from ``start`` on; none where all are known."""
    known: Slice2D | None = None
    for tile_row in range(start, plan.shape[0]):
        block = rows_of(plan, tile_row)
        shared = known is not None and known.row0 <= block.row0 < known.row1
        new = replace(block, row0=known.row1) if shared and known is not None else block
        if new.shape[0] > 0:
            yield new
        known = block


def read_ahead(
    scene: FusionScene, plan: TilePlan, start: int, *, pieces: int = 0
) -> Iterator[tuple[int, SceneStrip]]:  # fmt: skip
    """Yield (row of tiles, its strip) from ``start`` on; a thread makes the next one meanwhile.

    Parameters
    ----------
    scene, plan
        Where pixels come from, and the tiles.
    start
        First row of tiles.
    pieces
        Rows of so many further strips are read at a time meanwhile: what fuses them may be faster than one thread.
    """
    rows = range(start, plan.shape[0])
    with (
        ThreadPoolExecutor(max(pieces, 1), thread_name_prefix="hsfuse-rows") as threads,
        ThreadPoolExecutor(1, thread_name_prefix="hsfuse-reader") as pool,
    ):
        reader = StripReader(scene, plan, _RowsAhead(scene, plan, start, pieces, threads) if pieces else None)
        waiting: Future[SceneStrip] = pool.submit(reader.read, start)
        for tile_row in rows:
            strip = waiting.result()
            if tile_row + 1 in rows:
                waiting = pool.submit(reader.read, tile_row + 1)
            yield tile_row, strip
            del strip
