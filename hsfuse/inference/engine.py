"""Read, fuse, blend, mask, hand over: the loop over tile rows.

A reader thread prepares the next tile row while this one is fused; the sink (a writer with its own thread) takes
finished rows. Peak memory is a few strips, whatever the height of the scene.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.base import FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.blending import RollingStrip
from hsfuse.inference.scene import FusionScene, SceneStrip
from hsfuse.inference.tiling import Tile, TilePlan
from hsfuse.log import get_logger
from hsfuse.masks import expand
from hsfuse.progress import Progress, SilentProgress

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Sink = Callable[[int, FloatCube], None]
"""Takes (first fine row, rows of shape (band, row, col) with NaN for nodata); called in order, top to bottom."""

PHYSICAL_RANGE = (-0.05, 1.5)
"""Reflectance outside this range is an artefact; ``clip`` cuts it off."""
_COUNT_ROWS = 32


@dataclass
class FusionStatistics:
    """What the engine counted.

    Attributes
    ----------
    tiles, skipped
        Tiles of the plan, and those left out because no pixel in them is valid.
    valid_pixels, cloud_pixels, total_pixels
        Fine pixels.
    computed_pixels
        Valid fine pixels that this run fused itself: fewer than ``valid_pixels`` after ``--resume``.
    clipped
        Samples outside the physical range among those.
    batch
        Tiles per call at the end (halved after running out of GPU memory).
    """

    tiles: int = 0
    skipped: int = 0
    valid_pixels: int = 0
    cloud_pixels: int = 0
    total_pixels: int = 0
    computed_pixels: int = 0
    clipped: int = 0
    batch: int = 1


@dataclass
class _Masks:
    """Validity of fine rows that are not handed over yet."""

    top: int = 0
    valid: BoolArray | None = None
    cloud: BoolArray | None = None
    missing: BoolArray | None = None
    ratio: int = 1
    bands: int = field(default=0)

    def extend(self, strip: SceneStrip) -> None:
        """Append what the strip knows about rows not seen yet."""
        known = self.top + (0 if self.valid is None else self.valid.shape[0])
        skip = known - strip.rows.row0 * self.ratio
        missing = strip.missing
        if missing is None:
            missing = np.zeros((self.bands, 1, 1), bool)
        rows = np.broadcast_to(missing, (self.bands, *strip.rows.shape))[:, skip // self.ratio :]
        if self.valid is None or self.cloud is None or self.missing is None:
            self.valid, self.cloud, self.missing = strip.valid[skip:], strip.cloud[skip:], rows
            return
        self.valid = np.concatenate([self.valid, strip.valid[skip:]])
        self.cloud = np.concatenate([self.cloud, strip.cloud[skip:]])
        self.missing = np.concatenate([self.missing, rows], axis=1)

    def take(self, count: int) -> tuple[BoolArray, BoolArray, BoolArray | None]:
        """Remove and return ``count`` fine rows (valid, cloud, missing samples on the coarse grid)."""
        if self.valid is None or self.cloud is None or self.missing is None:
            raise RuntimeError("no rows were read")
        coarse = count // self.ratio
        taken = self.valid[:count], self.cloud[:count], self.missing[:, :coarse]
        self.valid, self.cloud = self.valid[count:].copy(), self.cloud[count:].copy()
        self.missing = self.missing[:, coarse:].copy()
        self.top += count
        return taken[0], taken[1], taken[2] if taken[2].any() else None


def fuse_scene_tiles(
    scene: FusionScene,
    method: FusionMethod,
    plan: TilePlan,
    sink: Sink,
    *,
    device: str = "cpu",
    batch: int = 1,
    workers: int = 1,
    rows_done: int = 0,
    clip: bool = True,
    progress: Progress | None = None,
) -> FusionStatistics:
    """Fuse a scene tile by tile and pass finished rows on.

    Parameters
    ----------
    scene
        Where pixels come from.
    method
        A fitted method.
    plan
        Tiles on ``scene.grid``.
    sink
        Where finished rows go.
    device
        Torch device.
    batch
        Tiles per call; halved on the fly when the GPU runs out of memory.
    workers
        Threads that fuse tiles side by side on the CPU, each with one torch thread: two threads inside every small
        operation would spend their time waiting for each other.
    rows_done
        Fine rows that an interrupted run has finished (a value the sink was given as ``row0``).
    clip
        Cut reflectance to :data:`PHYSICAL_RANGE`.

    Raises
    ------
    MemoryBudgetError
        The GPU is too small for a single tile.
    """
    statistics = FusionStatistics(tiles=len(plan), batch=batch)
    if rows_done:
        _count_finished(scene, rows_done, statistics)
    first = _first_tile_row(plan, rows_done, scene.ratio)
    if first == plan.shape[0]:
        return statistics
    start = max(first - 1, 0)
    strip_sum = RollingStrip(plan, len(scene.bands), scene.ratio, start)
    masks = _Masks(top=strip_sum.top, ratio=scene.ratio, bands=len(scene.bands))
    with (
        _workers(workers if device == "cpu" else 1) as pool,
        (progress or SilentProgress()).stage("fuse", total=plan.shape[0] - start) as stage,
    ):
        for tile_row, strip in _read_ahead(scene, plan, start):
            masks.extend(strip)
            if pool is None:
                results = _fuse_row(method, plan, tile_row, strip, scene.ratio, device, statistics)
            else:
                results = _fuse_row_side_by_side(pool, workers, method, plan, tile_row, strip, scene.ratio, statistics)
            for tile, data in results:
                strip_sum.add(tile, data)
            row0, rows = strip_sum.finished(tile_row)
            valid, cloud, missing = masks.take(rows.shape[1])
            if row0 >= rows_done:
                _mask(rows, valid, missing, scene.ratio, clip, statistics)
                _count(valid, cloud, statistics)
                statistics.computed_pixels += int(valid.sum())
                sink(row0, rows)
            strip_sum.advance(tile_row)
            stage.advance()
    return statistics


def _count(valid: BoolArray, cloud: BoolArray, statistics: FusionStatistics) -> None:
    statistics.valid_pixels += int(valid.sum())
    statistics.cloud_pixels += int(cloud.sum())
    statistics.total_pixels += valid.size


def _count_finished(scene: FusionScene, rows_done: int, statistics: FusionStatistics) -> None:
    """Count the rows of an interrupted run too: coverage is a fact about the product, not about this run."""
    rows = rows_done // scene.ratio
    for row0 in range(0, rows, _COUNT_ROWS):
        strip = scene.read(Slice2D(row0, min(row0 + _COUNT_ROWS, rows), 0, scene.grid.width))
        _count(strip.valid, strip.cloud, statistics)


def _first_tile_row(plan: TilePlan, rows_done: int, ratio: int) -> int:
    for tile_row in range(plan.shape[0]):
        if plan.finished_rows(tile_row) * ratio > rows_done:
            return tile_row
    return plan.shape[0]


def _row_block(plan: TilePlan, tile_row: int) -> Slice2D:
    read = plan.tile_at(tile_row, 0).read
    return Slice2D(read.row0, read.row1, 0, plan.width)


def _read_ahead(scene: FusionScene, plan: TilePlan, start: int) -> Iterator[tuple[int, SceneStrip]]:
    rows = range(start, plan.shape[0])
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-reader") as pool:
        waiting: Future[SceneStrip] | None = None
        for tile_row in rows:
            strip = waiting.result() if waiting is not None else scene.read(_row_block(plan, tile_row))
            following = tile_row + 1
            waiting = pool.submit(scene.read, _row_block(plan, following)) if following in rows else None
            yield tile_row, strip
            del strip


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor | None]:
    if count < 2:
        yield None
        return
    with single_thread(), ThreadPoolExecutor(count, thread_name_prefix="hsfuse-fuse") as pool:
        yield pool


@contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread inside the block (each Python thread may still call torch)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tiles_with_data(
    plan: TilePlan, tile_row: int, strip: SceneStrip, ratio: int, statistics: FusionStatistics
) -> list[Tile]:
    todo: list[Tile] = []
    for tile in plan.row_of_tiles(tile_row):
        if strip.valid[_local(tile.blend, strip).scaled(ratio).slices].any():
            todo.append(tile)
        else:
            statistics.skipped += 1
    return todo


def _fuse_row_side_by_side(
    pool: ThreadPoolExecutor,
    workers: int,
    method: FusionMethod,
    plan: TilePlan,
    tile_row: int,
    strip: SceneStrip,
    ratio: int,
    statistics: FusionStatistics,
) -> Iterator[tuple[Tile, FloatCube]]:
    """Fuse the tiles of a row in several threads; results come in order, so sums do not depend on timing."""

    def one(tile: Tile) -> FloatCube:
        import torch

        torch.set_num_threads(1)
        results = _fuse_batch(method, [tile], strip, ratio, "cpu", plan.multiple, statistics)
        if results is None:
            raise RuntimeError("a single tile on the CPU cannot be split further")
        return results[0]

    waiting: deque[tuple[Tile, Future[FloatCube]]] = deque()
    for tile in _tiles_with_data(plan, tile_row, strip, ratio, statistics):
        waiting.append((tile, pool.submit(one, tile)))
        if len(waiting) > workers:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _fuse_row(
    method: FusionMethod,
    plan: TilePlan,
    tile_row: int,
    strip: SceneStrip,
    ratio: int,
    device: str,
    statistics: FusionStatistics,
) -> Iterator[tuple[Tile, FloatCube]]:
    todo = _tiles_with_data(plan, tile_row, strip, ratio, statistics)
    groups: dict[tuple[int, int], list[Tile]] = {}
    for tile in todo:
        groups.setdefault(tile.read.shape, []).append(tile)
    for tiles in groups.values():
        position = 0
        while position < len(tiles):
            part = tiles[position : position + statistics.batch]
            results = _fuse_batch(method, part, strip, ratio, device, plan.multiple, statistics)
            if results is None:
                continue
            yield from zip(part, results, strict=True)
            position += len(part)


def _local(block: Slice2D, strip: SceneStrip) -> Slice2D:
    top = strip.rows.row0
    return Slice2D(block.row0 - top, block.row1 - top, block.col0, block.col1)


def _fuse_batch(
    method: FusionMethod,
    tiles: Sequence[Tile],
    strip: SceneStrip,
    ratio: int,
    device: str,
    multiple: int,
    statistics: FusionStatistics,
) -> list[FloatCube] | None:
    """Fuse some tiles of equal shape; None when the batch was too large and has been halved."""
    import torch

    try:
        with torch.inference_mode():
            hsi = torch.stack(
                [torch.from_numpy(strip.hsi[(slice(None), *_local(t.read, strip).slices)]) for t in tiles]
            )
            msi = torch.stack(
                [torch.from_numpy(strip.msi[(slice(None), *_local(t.read, strip).scaled(ratio).slices)]) for t in tiles]
            )
            rows, cols = hsi.shape[-2:]
            hsi, msi = _pad(hsi, multiple, 1), _pad(msi, multiple, ratio)
            fused = method.fuse(hsi.to(device), msi.to(device))[..., : rows * ratio, : cols * ratio]
            results: list[FloatCube] = []
            for tile, one in zip(tiles, fused, strict=True):
                inner = Slice2D(
                    tile.blend.row0 - tile.read.row0, tile.blend.row1 - tile.read.row0,
                    tile.blend.col0 - tile.read.col0, tile.blend.col1 - tile.read.col0,
                ).scaled(ratio)  # fmt: skip
                results.append(one[(slice(None), *inner.slices)].float().cpu().numpy())
            return results
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        if statistics.batch == 1:
            raise MemoryBudgetError(
                f"The GPU ran out of memory on a single tile of {tiles[0].read.shape} HSI pixels.",
                hint="Choose a smaller --tile, a lower --precision, or --device cpu.",
            ) from None
        statistics.batch = max(statistics.batch // 2, 1)
        _log.warning("The GPU ran out of memory; going on with %d tiles at a time.", statistics.batch)
        return None


def _pad(x: torch.Tensor, multiple: int, ratio: int) -> torch.Tensor:
    """Grow the right and lower edge by replication to whole multiples (images smaller than one multiple)."""
    import torch

    step = multiple * ratio
    down, right = -x.shape[-2] % step, -x.shape[-1] % step
    return torch.nn.functional.pad(x, (0, right, 0, down), mode="replicate") if down or right else x


def _mask(
    rows: FloatCube,
    valid: BoolArray,
    missing: BoolArray | None,
    ratio: int,
    clip: bool,
    statistics: FusionStatistics,
) -> None:
    """Mask and clip in place; band by band, so that no temporary is as large as the strip."""
    invalid = ~valid
    some_invalid = bool(invalid.any())
    low, high = PHYSICAL_RANGE
    for band in range(rows.shape[0]):
        plane = rows[band]
        if some_invalid:
            plane[invalid] = np.nan
        if missing is not None and missing[band].any():
            plane[expand(missing[band], ratio)] = np.nan
        if clip:
            # After masking: stand-ins under a mask are no samples of the product.
            outside = int(np.count_nonzero((plane < low) | (plane > high)))
            if outside:
                statistics.clipped += outside
                np.clip(plane, low, high, out=plane)
