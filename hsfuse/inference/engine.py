"""Read, fuse, blend, mask, hand over: the loop over tile rows.

A reader thread prepares the next tile row while this one is fused; finished rows are encoded by the threads that
fuse and handed to the sink by a thread of its own. Peak memory is a few strips, whatever the height of the scene.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import large_arrays_apart, release_freed_memory
from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.base import FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.blending import Finished, TileBlender
from hsfuse.inference.layout import tiles_around
from hsfuse.inference.row_pipeline import RowPipeline, TileRow
from hsfuse.inference.scene import FusionScene, SceneStrip
from hsfuse.inference.strips import read_ahead
from hsfuse.inference.tiling import Tile, TilePlan
from hsfuse.log import get_logger
from hsfuse.masks import expand
from hsfuse.progress import Progress, SilentProgress
from hsfuse.writers.encoding import SampleEncoding

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Sink = Callable[[int, NDArray[Any]], None]
"""Takes (first fine row, samples of shape (band, row, col)), in order, top to bottom, from a thread of its own.

The samples are reflectance in float32 with NaN for nodata, or what an encoder made of them; they may be read until
the call returns.
"""

PHYSICAL_RANGE = (-0.05, 1.5)
"""Reflectance outside this range is an artefact; ``clip`` cuts it off."""
_COUNT_ROWS = 32
_TIDY_ABOVE = 0.95
"""Of the planned memory, and seldom reached: while memory goes back, no thread can take any, and what is taken again
has to be cleared."""


class RowEncoder(Protocol):
    """RowPipeline reflectance into the samples that the sink takes; see :class:`hsfuse.writers.SampleEncoding`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples."""
        ...

    def encode_into(
        self, reflectance: FloatCube, valid: BoolArray, out: NDArray[Any], limits: tuple[float, float] | None = None
    ) -> int:
        """Mask, clip and encode (band, row, col) into ``out``; return the number of samples outside the limits."""
        ...


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
    read_pixels
        Fine pixels that the method was given for those: tiles with their context.
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
    read_pixels: int = 0
    clipped: int = 0
    batch: int = 1


@dataclass(frozen=True)
class _RowMasks:
    """What is known about finished fine rows; ``missing`` samples (band, row, col) are on the coarse grid."""

    valid: BoolArray
    cloud: BoolArray
    missing: BoolArray | None


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

    def take(self, count: int) -> _RowMasks:
        """Remove and return ``count`` fine rows."""
        if self.valid is None or self.cloud is None or self.missing is None:
            raise RuntimeError("no rows were read")
        coarse = count // self.ratio
        taken = self.valid[:count], self.cloud[:count], self.missing[:, :coarse]
        self.valid, self.cloud = self.valid[count:].copy(), self.cloud[count:].copy()
        self.missing = self.missing[:, coarse:].copy()
        self.top += count
        return _RowMasks(taken[0], taken[1], taken[2] if taken[2].any() else None)


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
    memory: int | None = None,
    encoder: RowEncoder | None = None,
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
    memory
        Bytes that the process is planned to take. Near them, memory that tiles of other shapes have freed goes back.
    encoder
        Makes the samples that the sink takes; float32 reflectance when None.

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
    start = max(first - 1, 0) if plan.overlap else first
    limits = PHYSICAL_RANGE if clip else None
    on_cpu = device == "cpu"
    # The many arrays of a network leave gaps that grow from row to row; its rows take long enough to close them.
    # Those of classical methods are closed only where they would break the plan.
    tidy = on_cpu and method.spec.kind == "network"
    tidy_above = int(_TIDY_ABOVE * memory) if on_cpu and memory else 0
    masks = _Masks(top=plan.finished_rows(start - 1) * scene.ratio if start else 0, ratio=scene.ratio,
                   bands=len(scene.bands))  # fmt: skip
    with (
        large_arrays_apart() if tidy else nullcontext(),
        _workers(workers if on_cpu else 1) as pool,
        _Handover(sink, (len(scene.bands), plan.width * scene.ratio), encoder, single=plan.overlap > 0) as handover,
        (progress or SilentProgress()).stage("fuse", total=plan.shape[0] - start) as stage,
    ):
        job = _Job(scene, method, plan, device, pool, workers, statistics, handover, limits, tidy_above)

        def finished(clipped: int) -> None:
            statistics.clipped += clipped
            if tidy:
                release_freed_memory()
            stage.advance()

        begin_row = _blended_rows(job, start) if plan.overlap else job.exact_row
        with RowPipeline(finished) as pipeline:
            for tile_row, strip in read_ahead(scene, plan, start):
                masks.extend(strip)
                rows = _finished(plan, tile_row, masks.top, scene.ratio)
                ready = rows.row0 >= rows_done
                masked = masks.take(rows.shape[0])
                pipeline.add(begin_row(tile_row, strip, rows, masked, ready))
                if ready:
                    _count(masked.valid, masked.cloud, statistics)
                    statistics.computed_pixels += int(masked.valid.sum())
                del strip
    return statistics


def _finished(plan: TilePlan, tile_row: int, top: int, ratio: int) -> Slice2D:
    """Fine rows that are finished after a row of tiles, when those above ``top`` are already."""
    return Slice2D(top, plan.finished_rows(tile_row) * ratio, 0, plan.width * ratio)


class _Handover:
    """Buffers of finished rows, band interleaved by line, and the thread that gives them to the sink."""

    def __init__(self, sink: Sink, shape: tuple[int, int], encoder: RowEncoder | None, *, single: bool) -> None:
        self._sink, self._shape, self._single = sink, shape, single
        self.encoder: RowEncoder = encoder or SampleEncoding.of("float32")
        self._free: deque[NDArray[Any]] = deque()
        self._waiting: Future[None] | None = None
        self._given: NDArray[Any] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hsfuse-writer")

    def buffer(self, rows: int) -> NDArray[Any]:
        """Return memory for some rows, shape (row, band, col): one of two that take turns, or the only one."""
        if self._single:
            self._finish()
        for index, known in enumerate(self._free):
            if known.shape[0] >= rows:
                del self._free[index]
                return known
        if self._free:
            self._free.popleft()  # too small for the rows that are still to come as well
        return np.empty((rows, *self._shape), self.encoder.dtype)

    def give(self, row0: int, rows: int, buffer: NDArray[Any]) -> None:
        """Pass the first ``rows`` of a buffer to the sink, once it has taken those before."""
        self._finish()
        self._given = buffer
        self._waiting = self._pool.submit(self._sink, row0, buffer[:rows].transpose(1, 0, 2))

    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()
        if self._given is not None:
            self._free.append(self._given)
            self._given = None

    def __enter__(self) -> _Handover:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Rows on their way are written all the same: they count after --resume.
            self._pool.shutdown(wait=True)


@dataclass
class _Job:
    """What stays the same over all rows of tiles."""

    scene: FusionScene
    method: FusionMethod
    plan: TilePlan
    device: str
    pool: ThreadPoolExecutor | None
    workers: int
    statistics: FusionStatistics
    handover: _Handover
    limits: tuple[float, float] | None
    tidy_above: int = 0

    def begin(self, tile_row: int, strip: SceneStrip, row: TileRow) -> TileRow:
        """Begin to fuse a row of tiles."""
        todo = self._tiles(tile_row, strip)
        self.statistics.read_pixels += sum(t.read.shape[0] * t.read.shape[1] for t in todo) * self.scene.ratio**2
        if self.pool is None:
            return row.begin_here(lambda: sum(row.use(tile, data) for tile, data in self._in_batches(todo, strip)))
        return row.begin(self._side_by_side(self.pool, todo, strip, row.use))

    def _tiles(self, tile_row: int, strip: SceneStrip) -> list[Tile]:
        """Tiles of a row that hold anything valid.

        Tiles that are blended are cut to fit what is valid. On a GPU all are alike, so that they run in batches.
        Exact tiles are cheap, and their results do not depend on where they are cut.
        """
        regular = _tiles_with_data(self.plan, tile_row, strip, self.scene.ratio, self.statistics)
        if not self.plan.overlap or self.device != "cpu" or not regular:
            return regular
        ratio, block = self.scene.ratio, _local(self.plan.tile_at(tile_row, 0).blend, strip)
        rows, width = block.shape[0], self.plan.width
        valid = strip.valid[block.row0 * ratio : block.row1 * ratio].reshape(rows, ratio, width, ratio)
        return tiles_around(self.plan, tile_row, np.asarray(valid.any(axis=(1, 3)), dtype=np.bool_))

    def exact_row(self, tile_row: int, strip: SceneStrip, rows: Slice2D, masks: _RowMasks, ready: bool) -> TileRow:
        """Fuse tiles that do not overlap: each is encoded by the thread that made it."""
        buffer = _Late(lambda: self.handover.buffer(rows.shape[0]))
        done = np.zeros(self.plan.shape[1], bool)

        def use(tile: Tile, data: FloatCube) -> int:
            done[tile.col] = True
            return self.encode(data, masks, self._inside(tile), buffer())

        def complete() -> None:
            for tile in self.plan.row_of_tiles(tile_row):
                if not done[tile.col]:
                    inside = self._inside(tile)
                    _part(buffer(), inside, slice(0, inside.shape[0]))[...] = self._nothing()
            self.handover.give(rows.row0, rows.shape[0], buffer())

        return self.begin(tile_row, strip, TileRow(use, complete)) if ready else TileRow(use, lambda: None)

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
        ratio = self.scene.ratio
        return Slice2D(0, tile.core.shape[0] * ratio, tile.core.col0 * ratio, tile.core.col1 * ratio)

    def encode(self, data: FloatCube, masks: _RowMasks, block: Slice2D, buffer: NDArray[Any]) -> int:
        """Encode a block of finished rows into their buffer; return the number of clipped samples."""
        ratio = self.scene.ratio
        if masks.missing is not None:
            coarse = (slice(block.row0 // ratio, block.row1 // ratio), slice(block.col0 // ratio, block.col1 // ratio))
            for plane, missing in zip(data, masks.missing[(slice(None), *coarse)], strict=True):
                if missing.any():
                    plane[expand(missing, ratio)] = np.nan
        target = _part(buffer, block, slice(block.row0, block.row1))
        return self.handover.encoder.encode_into(data, masks.valid[block.slices], target, self.limits)

    def _side_by_side(
        self, pool: ThreadPoolExecutor, todo: Sequence[Tile], strip: SceneStrip, use: Callable[[Tile, FloatCube], int]
    ) -> list[Future[int]]:
        """Fuse tiles in several threads; results are used in the thread that made them."""

        def one(tile: Tile) -> int:
            import torch

            torch.set_num_threads(1)
            results = _fuse_batch(
                self.method, [tile], strip, self.scene.ratio, "cpu", self.plan.multiple, self.statistics
            )
            if results is None:
                raise RuntimeError("a single tile on the CPU cannot be split further")
            done = use(tile, results[0])
            del results
            if self.tidy_above:
                release_freed_memory(above=self.tidy_above)
            return done

        # Large tiles first, so that the threads are done at about the same time.
        ordered = sorted(todo, key=lambda tile: -tile.read.shape[0] * tile.read.shape[1])
        return [pool.submit(one, tile) for tile in ordered]

    def _in_batches(self, todo: Sequence[Tile], strip: SceneStrip) -> Iterator[tuple[Tile, FloatCube]]:
        groups: dict[tuple[int, int], list[Tile]] = {}
        for tile in todo:
            groups.setdefault(tile.read.shape, []).append(tile)
        for tiles in groups.values():
            position = 0
            while position < len(tiles):
                part = tiles[position : position + self.statistics.batch]
                results = _fuse_batch(
                    self.method, part, strip, self.scene.ratio, self.device, self.plan.multiple, self.statistics
                )
                if results is None:
                    continue
                yield from zip(part, results, strict=True)
                position += len(part)


def _part(buffer: NDArray[Any], block: Slice2D, rows: slice) -> NDArray[Any]:
    """A block of a buffer (row, band, col) as (band, row, col)."""
    return buffer[rows, :, block.col0 : block.col1].transpose(1, 0, 2)


class _Late:
    """Memory for finished rows, taken with the first result and not before: the sink may still read those above."""

    def __init__(self, take: Callable[[], NDArray[Any]]) -> None:
        self._take, self._lock = take, Lock()
        self._taken: NDArray[Any] | None = None

    def __call__(self) -> NDArray[Any]:
        with self._lock:
            if self._taken is None:
                self._taken = self._take()
            return self._taken


def _blended_rows(job: _Job, start: int) -> Callable[[int, SceneStrip, Slice2D, _RowMasks, bool], TileRow]:
    """Return what begins to fuse rows of overlapping tiles; each hands over what no later tile touches."""
    blender = TileBlender(job.plan, len(job.scene.bands), job.scene.ratio, start)

    def begin(tile_row: int, strip: SceneStrip, rows: Slice2D, masks: _RowMasks, ready: bool) -> TileRow:
        buffer = _Late(lambda: job.empty_buffer(rows.shape[0]))

        def encode(finished: Iterable[Finished]) -> int:
            return sum(job.encode(part.data, masks, part.block, buffer()) for part in finished) if ready else 0

        def complete() -> None:
            if ready:
                job.statistics.clipped += encode(blender.shared())
                job.handover.give(rows.row0, rows.shape[0], buffer())
            blender.advance(tile_row)

        return job.begin(tile_row, strip, TileRow(lambda tile, data: encode(blender.add(tile, data)), complete))

    return begin


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
            hsi, msi = _pad(hsi, multiple, 1), _pad(msi, multiple, ratio)
            inner = tiles[0].inner
            if any(tile.inner != inner for tile in tiles):
                inner = Slice2D(0, tiles[0].read.shape[0], 0, tiles[0].read.shape[1])
            fused = method.fuse_window(hsi.to(device), msi.to(device), inner.slices)
            results: list[FloatCube] = []
            for tile, one in zip(tiles, fused, strict=True):
                wanted = tile.inner
                part = Slice2D(
                    wanted.row0 - inner.row0, wanted.row1 - inner.row0,
                    wanted.col0 - inner.col0, wanted.col1 - inner.col0,
                ).scaled(ratio)  # fmt: skip
                results.append(one[(slice(None), *part.slices)].float().cpu().numpy())
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
