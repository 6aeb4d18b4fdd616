"""Read, fuse, blend, mask, hand over: the loop over tile rows.

A reader thread prepares the next tile row while this one is fused; finished rows are encoded by the threads that
fuse and handed to the sink by a thread of its own. Peak memory is a few strips, whatever the height of the scene.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import large_arrays_apart, release_freed_memory
from hsfuse.fusion.base import FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.accelerator import Accelerator, accelerator_for
from hsfuse.inference.device_pipeline import DevicePipeline
from hsfuse.inference.handover import Handover, RowEncoder, Sink
from hsfuse.inference.row_jobs import RowJob, blended_rows
from hsfuse.inference.row_masks import MasksAhead, RowMasks
from hsfuse.inference.row_pipeline import RowPipeline
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.strips import read_ahead
from hsfuse.inference.tiling import TilePlan
from hsfuse.progress import Progress, SilentProgress
from hsfuse.threads import single_threaded

BoolArray = NDArray[np.bool_]

PHYSICAL_RANGE = (-0.05, 1.5)
"""Reflectance outside this range is an artefact; ``clip`` cuts it off."""
_COUNT_ROWS = 32
_CARD_PIECES = 2
"""Strips whose rows are read at a time beside a card: one after the other they would take longer than the card."""
_TIDY_ABOVE = 0.95
"""Of the planned memory, and seldom reached: while memory goes back, no thread can take any, and what is taken again
has to be cleared."""


def fuse_scene_tiles(
    scene: FusionScene,
    method: FusionMethod,
    plan: TilePlan,
    sink: Sink,
    *,
    device: str = "cpu",
    accelerator: Accelerator | None = None,
    batch: int = 1,
    workers: int = 1,
    rows_done: int = 0,
    clip: bool = True,
    memory: int | None = None,
    encoder: RowEncoder | None = None,
    progress: Progress | None = None,
    statistics: FusionStatistics | None = None,
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
    accelerator
        Stands for the device; by default a GPU's streams.
    batch
        Tiles per call; halved on the fly when the device runs out of memory.
    workers
        Threads that fuse tiles side by side on the CPU, each with one torch thread: two threads inside every small
        operation would spend their time waiting for each other.
    rows_done
        Fine rows that are finished already: a value that the sink was given as ``row0`` in a run with this plan, or
        the plan's first row.
    clip
        Cut reflectance to :data:`PHYSICAL_RANGE`.
    memory
        Bytes that the process is planned to take. Near them, memory that tiles of other shapes have freed goes back.
    encoder
        Makes the samples that the sink takes; float32 reflectance when None.
    statistics
        What was counted of the finished rows; it is added to. None: those rows are counted anew.

    Raises
    ------
    TileMemoryError
        The GPU is too small for a single tile.
    """
    if statistics is None:
        statistics = count_finished(scene, rows_done)
    statistics.tiles += len(plan)
    statistics.batch = batch
    first = _first_tile_row(plan, rows_done, scene.ratio)
    if first == plan.shape[0]:
        return statistics
    start = max(first - 1, 0) if plan.overlap else first
    limits = PHYSICAL_RANGE if clip else None
    accelerator = accelerator or accelerator_for(device)
    on_cpu = accelerator is None
    # The many arrays of a network leave gaps that grow from row to row; its rows take long enough to close them.
    # Those of classical methods are closed only where they would break the plan.
    tidy = on_cpu and method.spec.kind == "network"
    tidy_above = int(_TIDY_ABOVE * memory) if on_cpu and memory else 0
    top = plan.finished_rows(start - 1) if start else plan.first_row
    masks = MasksAhead(top=top * scene.ratio, ratio=scene.ratio, bands=len(scene.bands))
    with (
        large_arrays_apart() if tidy else nullcontext(),
        _workers(workers if on_cpu else 1) as pool,
        _device(accelerator, method, statistics) as pipeline_of_device,
        Handover(sink, (len(scene.bands), plan.width * scene.ratio), encoder, single=plan.overlap > 0) as handover,
        (progress or SilentProgress()).stage("fuse", total=plan.shape[0] - start) as stage,
    ):
        job = RowJob(scene, method, plan, pipeline_of_device, pool, statistics, handover, limits, tidy_above)

        underway: deque[RowMasks | None] = deque()

        def finished(clipped: int) -> None:
            statistics.clipped += clipped
            masked = underway.popleft()
            if masked is not None:
                _count(masked.valid, masked.cloud, statistics)
                statistics.computed_pixels += int(masked.valid.sum())
            if tidy:
                release_freed_memory()
            stage.advance()

        begin_row = blended_rows(job, start) if plan.overlap else job.exact_row
        with RowPipeline(finished) as pipeline:
            for tile_row, strip in read_ahead(scene, plan, start, pieces=0 if on_cpu else _CARD_PIECES):
                masks.extend(strip)
                rows = _finished(plan, tile_row, masks.top, scene.ratio)
                ready = rows.row0 >= rows_done
                masked = masks.take(rows.shape[0])
                underway.append(masked if ready else None)
                pipeline.add(begin_row(tile_row, strip, rows, masked, ready))
                del strip
    return statistics


def _finished(plan: TilePlan, tile_row: int, top: int, ratio: int) -> Slice2D:
    """Fine rows that are finished after a row of tiles, when those above ``top`` are already."""
    return Slice2D(top, plan.finished_rows(tile_row) * ratio, 0, plan.width * ratio)


def _count(valid: BoolArray, cloud: BoolArray, statistics: FusionStatistics) -> None:
    statistics.valid_pixels += int(valid.sum())
    statistics.cloud_pixels += int(cloud.sum())
    statistics.total_pixels += valid.size


def count_finished(scene: FusionScene, rows_done: int) -> FusionStatistics:
    """Count the fine rows of an interrupted run: coverage is a fact about the product, not about this run."""
    statistics = FusionStatistics()
    rows = rows_done // scene.ratio
    for row0 in range(0, rows, _COUNT_ROWS):
        strip = scene.read(Slice2D(row0, min(row0 + _COUNT_ROWS, rows), 0, scene.grid.width))
        _count(strip.valid, strip.cloud, statistics)
    return statistics


def _first_tile_row(plan: TilePlan, rows_done: int, ratio: int) -> int:
    for tile_row in range(plan.shape[0]):
        if plan.finished_rows(tile_row) * ratio > rows_done:
            return tile_row
    return plan.shape[0]


def _device(
    accelerator: Accelerator | None, method: FusionMethod, statistics: FusionStatistics
) -> AbstractContextManager[DevicePipeline | None]:
    if accelerator is None:
        return nullcontext()

    def halved(batch: int) -> None:
        statistics.batch = batch

    return DevicePipeline(accelerator, method, statistics.batch, halved)


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor | None]:
    if count < 2:
        yield None
        return
    # Matrix libraries too: what tiles ask of them is small.
    with single_threaded(), ThreadPoolExecutor(count, thread_name_prefix="hsfuse-fuse") as pool:
        yield pool
