"""Strips of a scene for one row of tiles after the other: each row of the images is read once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene, RawStrip, SceneStrip
from hsfuse.inference.tiling import TilePlan


class StripReader:
    """Reads the strips of successive rows of tiles; what two of them share is kept, not read again.

    Parameters
    ----------
    scene
        Where pixels come from.
    plan
        Tiles on ``scene.grid``.
    """

    def __init__(self, scene: FusionScene, plan: TilePlan) -> None:
        self._scene, self._plan = scene, plan
        self._kept: RawStrip | None = None

    def read(self, tile_row: int) -> SceneStrip:
        """Read the strip of a row of tiles; call with ascending rows."""
        block = self._block(tile_row)
        kept, self._kept = self._kept, None
        if kept is not None and kept.rows.row0 <= block.row0 < kept.rows.row1:
            kept = kept if kept.rows.row0 == block.row0 else kept.below(block.row0, self._scene.ratio)
            new = Slice2D(kept.rows.row1, block.row1, block.col0, block.col1)
            raw = kept.then(self._scene.read_raw(new)) if new.shape[0] > 0 else kept
        else:
            raw = self._scene.read_raw(block)
        if tile_row + 1 < self._plan.shape[0]:
            following = self._block(tile_row + 1)
            if following.row0 < block.row1:
                # Before gaps are filled: stand-ins depend on the strip that they are made for.
                self._kept = raw.below(following.row0, self._scene.ratio)
        return self._scene.complete(raw)

    def _block(self, tile_row: int) -> Slice2D:
        read = self._plan.tile_at(tile_row, 0).read
        return Slice2D(read.row0, read.row1, 0, self._plan.width)


def read_ahead(scene: FusionScene, plan: TilePlan, start: int) -> Iterator[tuple[int, SceneStrip]]:
    """Yield (row of tiles, its strip) from ``start`` on; a thread reads the next one meanwhile."""
    reader = StripReader(scene, plan)
    rows = range(start, plan.shape[0])
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-reader") as pool:
        waiting: Future[SceneStrip] = pool.submit(reader.read, start)
        for tile_row in rows:
            strip = waiting.result()
            if tile_row + 1 in rows:
                waiting = pool.submit(reader.read, tile_row + 1)
            yield tile_row, strip
            del strip
