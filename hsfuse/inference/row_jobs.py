"""Fusing one row of tiles: in threads or in batches, exact or blended, and encoding what is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import release_freed_memory
from hsfuse.fusion.base import FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.blending import Finished, TileBlender
from hsfuse.inference.device_pipeline import DevicePipeline
from hsfuse.inference.handover import Handover, LateBuffer
from hsfuse.inference.layout import tiles_around
from hsfuse.inference.row_masks import RowMasks
from hsfuse.inference.row_pipeline import TileRow
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_strips import SceneStrip
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tile_batches import TileBatch, batches_of, fuse_batch, local_block, tiles_with_data
from hsfuse.inference.tiling import Tile, TilePlan

FloatCube = NDArray[np.float32]

_WIDE_MULTIPLE_PX = 8
"""Tiles that are read to multiples of so many HSI pixels hold much that is not wanted; of others, graphs that serve
more of them are worth more."""


@dataclass
class RowJob:
    """What stays the same over all rows of tiles."""

    scene: FusionScene
    method: FusionMethod
    plan: TilePlan
    device: DevicePipeline | None
    pool: ThreadPoolExecutor | None
    statistics: FusionStatistics
    handover: Handover
    limits: tuple[float, float] | None
    tidy_above: int = 0

    def begin(self, tile_row: int, strip: SceneStrip, row: TileRow) -> TileRow:
        """Begin to fuse a row of tiles."""
        todo = self._tiles(tile_row, strip)
        self.statistics.read_pixels += sum(t.read.shape[0] * t.read.shape[1] for t in todo) * self.scene.ratio**2
        if self.device is not None:
            return row.begin(self.device.submit(self._batches(todo, strip, self.device.batch), row.use))
        if self.pool is not None:
            return row.begin(self._side_by_side(self.pool, todo, strip, row.use))
        return row.begin_here(lambda: self._one_after_another(todo, strip, row.use))

    def _tiles(self, tile_row: int, strip: SceneStrip) -> list[Tile]:
        """Tiles of a row that hold anything valid.

        They are cut to fit what is valid. On a GPU all are alike, so that they run in batches.
        """
        regular = tiles_with_data(self.plan, tile_row, strip, self.scene.ratio, self.statistics)
        if self.device is not None or not regular:
            return regular
        ratio, block = self.scene.ratio, local_block(self.plan.tile_at(tile_row, 0).blend, strip)
        rows, width = block.shape[0], self.plan.width
        valid = strip.valid[block.row0 * ratio : block.row1 * ratio].reshape(rows, ratio, width, ratio)
        return tiles_around(self.plan, tile_row, np.asarray(valid.any(axis=(1, 3)), dtype=np.bool_))

    def exact_row(self, tile_row: int, strip: SceneStrip, rows: Slice2D, masks: RowMasks, ready: bool) -> TileRow:
        """Fuse tiles that do not overlap: each is encoded by the thread that made it."""
        buffer = LateBuffer(lambda: self.handover.buffer(rows.shape[0]))
        empty = np.ones(self.plan.width, bool)

        def use(tile: Tile, data: FloatCube) -> int:
            core = tile.core
            empty[core.col0 : core.col1] = False
            if tile.blend != core:
                self._leave_empty(buffer(), rows.shape[0], core.col0, core.col1)
            return self.encode(data, masks, self._inside(tile), buffer())

        def complete() -> None:
            edges = np.flatnonzero(np.diff(empty, prepend=False, append=False))
            for first, last in edges.reshape(-1, 2):
                self._leave_empty(buffer(), rows.shape[0], int(first), int(last))
            self.handover.give(rows.row0, rows.shape[0], buffer())

        return self.begin(tile_row, strip, TileRow(use, complete)) if ready else TileRow(use, lambda: None)

    def _leave_empty(self, buffer: NDArray[Any], rows: int, first: int, last: int) -> None:
        """Put no data into some columns, HSI pixels, of so many finished rows."""
        block = Slice2D(0, rows, first * self.scene.ratio, last * self.scene.ratio)
        part_of(buffer, block, slice(0, rows))[...] = self._nothing()

    def empty_buffer(self, rows: int) -> NDArray[Any]:
        """Return memory for finished rows, shape (row, band, col), without data."""
        buffer = self.handover.buffer(rows)
        buffer[:rows] = self._nothing()
        return buffer

    def _nothing(self) -> NDArray[Any]:
        """One sample without data, shape (1, 1, 1)."""
        sample = np.empty((1, 1, 1), self.handover.encoder.dtype)
        self.handover.encoder.encode_into(np.full((1, 1, 1), np.nan, np.float32), np.zeros((1, 1), bool), sample)
        return sample

    def _inside(self, tile: Tile) -> Slice2D:
        """Where a tile that does not overlap lies in the rows that it finishes, in fine pixels."""
        blend, top = tile.blend, tile.core.row0
        return Slice2D(blend.row0 - top, blend.row1 - top, blend.col0, blend.col1).scaled(self.scene.ratio)

    def encode(self, data: FloatCube, masks: RowMasks, block: Slice2D, buffer: NDArray[Any]) -> int:
        """Encode a block of finished rows into their buffer; return the number of clipped samples."""
        ratio = self.scene.ratio
        if masks.missing is not None:
            coarse = (slice(block.row0 // ratio, block.row1 // ratio), slice(block.col0 // ratio, block.col1 // ratio))
            for plane, missing in zip(data, masks.missing[(slice(None), *coarse)], strict=True):
                rows, cols = np.nonzero(missing)
                if rows.size:
                    # Few are missing: a mask of the whole block would take longer than encoding it.
                    height, width = missing.shape
                    plane.reshape(height, ratio, width, ratio)[rows, :, cols] = np.nan
        target = part_of(buffer, block, slice(block.row0, block.row1))
        return self.handover.encoder.encode_into(data, masks.valid[block.slices], target, self.limits)

    def _side_by_side(
        self, pool: ThreadPoolExecutor, todo: Sequence[Tile], strip: SceneStrip, use: Callable[[Tile, FloatCube], int]
    ) -> list[Future[int]]:
        """Fuse tiles in several threads; results are used in the thread that made them."""

        def one(tile: Tile) -> int:
            import torch

            torch.set_num_threads(1)
            results = fuse_batch(self.method, TileBatch((tile,), strip, self.scene.ratio, self.plan.whole_px))
            done = use(tile, results[0])
            del results
            if self.tidy_above:
                release_freed_memory(above=self.tidy_above)
            return done

        # Large tiles first, so that the threads are done at about the same time.
        ordered = sorted(todo, key=lambda tile: -tile.read.shape[0] * tile.read.shape[1])
        return [pool.submit(one, tile) for tile in ordered]

    def _one_after_another(self, todo: Sequence[Tile], strip: SceneStrip, use: Callable[[Tile, FloatCube], int]) -> int:
        """Fuse and use batches in the thread that calls."""
        clipped = 0
        for batch in self._batches(todo, strip, self.statistics.batch):
            for tile, data in zip(batch.tiles, fuse_batch(self.method, batch), strict=True):
                clipped += use(tile, data)
        return clipped

    def _batches(self, todo: Sequence[Tile], strip: SceneStrip, size: int) -> list[TileBatch]:
        same_part = self.plan.multiple >= _WIDE_MULTIPLE_PX
        return batches_of(todo, strip, self.scene.ratio, self.plan.whole_px, size, same_part=same_part)


def part_of(buffer: NDArray[Any], block: Slice2D, rows: slice) -> NDArray[Any]:
    """A block of a buffer (row, band, col) as (band, row, col)."""
    return buffer[rows, :, block.col0 : block.col1].transpose(1, 0, 2)


def blended_rows(job: RowJob, start: int) -> Callable[[int, SceneStrip, Slice2D, RowMasks, bool], TileRow]:
    """Return what begins to fuse rows of overlapping tiles; each hands over what no later tile touches."""
    blender = TileBlender(job.plan, len(job.scene.bands), job.scene.ratio, start)

    def begin(tile_row: int, strip: SceneStrip, rows: Slice2D, masks: RowMasks, ready: bool) -> TileRow:
        buffer = LateBuffer(lambda: job.empty_buffer(rows.shape[0]))

        def encode(finished: Iterable[Finished]) -> int:
            return sum(job.encode(part.data, masks, part.block, buffer()) for part in finished) if ready else 0

        def complete() -> None:
            if ready:
                job.statistics.clipped += encode(blender.shared())
                job.handover.give(rows.row0, rows.shape[0], buffer())
            blender.advance(tile_row)

        return job.begin(tile_row, strip, TileRow(lambda tile, data: encode(blender.add(tile, data)), complete))

    return begin
