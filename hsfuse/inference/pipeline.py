"""From a prepared scene and a method to finished rows: fit, plan, fuse, written once for every command.

What a command adds lies around these steps: what it fuses, where rows go, what is said about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.inference.accelerator import Accelerator, bounded_vram
from hsfuse.inference.backing_off import fuse_backing_off
from hsfuse.inference.budget import CACHE_BYTES, LOADED_BYTES, LOADED_PIXEL_BYTES, Estimate, choose_plan, make_budget
from hsfuse.inference.engine import count_finished, fuse_scene_tiles
from hsfuse.inference.filtered_guide import filter_guide
from hsfuse.inference.handover import RowEncoder, Sink
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tiling import TilePlan
from hsfuse.inference.told_change import tell_change
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.resources import Resources, held_bytes
from hsfuse.spectral import srf_weights
from hsfuse.threads import single_threaded

FloatCube = NDArray[np.float32]
Result = TypeVar("Result")

_log = get_logger(__name__)


def scene_context(
    scene: FusionScene, device: str, seed: int, *, calibrate: bool = True, threads: int = 1
) -> FusionContext:
    """Facts about the scene for a method; without ``calibrate`` it takes blur and alignment as they are."""
    bands = scene.hsi.bands.take(scene.bands)
    responses = scene.msi.responses
    weights = srf_weights(bands, responses) if responses is not None else scene.srf
    context = FusionContext(
        scene.ratio, bands.centre_nm, bands.fwhm_nm, weights, scene.psf, device, seed, calibrate,
        guide_noise=scene.guide_noise, guide_error=scene.guide_error, combined_noise=scene.combined_noise,
        threads=threads,
    )  # fmt: skip
    return context if scene.offset_px is None else replace(context, calibrate=False, offset_px=scene.offset_px)


def run_context(scene: FusionScene, resources: Resources, seed: int, *, calibrate: bool) -> FusionContext:
    """As :func:`scene_context`, for what a run may use."""
    return scene_context(scene, resources.device, seed, calibrate=calibrate, threads=resources.threads)


def fit(
    learn: Callable[[FusionContext, Sequence[LowResolutionStrip]], Result], scene: FusionScene, context: FusionContext
) -> Result:
    """Let a method learn from the whole scene at low resolution.

    Parameters
    ----------
    learn
        :meth:`~hsfuse.fusion.base.FusionMethod.fit` of a method, or what wraps it.
    scene
        Where the samples come from.
    context
        Facts about the scene.

    Raises
    ------
    OverlapError
        No pixel is valid in both images.
    """
    with single_threaded():
        return learn(context, list(scene.low_resolution_strips()))


def plan(
    scene: FusionScene,
    spec: ModelSpec,
    resources: Resources,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    sample_bytes: int = 4,
    later_bytes: int = 0,
    earlier_bytes: int = 0,
) -> Estimate:
    """Choose tiles that fit the memory.

    Parameters
    ----------
    scene
        What is fused.
    spec
        Of the method.
    resources
        What may be used.
    tile, overlap
        Sides that the user asked for, in MSI pixels.
    sample_bytes
        Bytes of a sample that the sink takes.
    later_bytes
        What the process will hold besides when it fuses, and does not yet.
    earlier_bytes
        What it takes at its peak before it fuses, on top of what it holds now. No tiles change that: it is told, and
        a limit of memory that is below it is warned of.

    Raises
    ------
    MemoryBudgetError
        Even the smallest tiles need more memory.
    UsageError
        The overlap is larger than the tile.
    """
    # Tiles are cut to fit what is valid, so how much is computed depends on it.
    wanted = None if resources.on_gpu else scene.expected_pixels()
    budget = make_budget(resources)
    # A dry run plans before everything is loaded and the images are co-registered.
    loaded = LOADED_BYTES + LOADED_PIXEL_BYTES * scene.fine_grid.height * scene.fine_grid.width
    earlier = max(budget.base, loaded) + CACHE_BYTES + earlier_bytes if earlier_bytes else 0
    budget = replace(budget, base=budget.base + later_bytes)
    if resources.memory is not None and earlier > resources.memory:
        _log.warning(
            "Finding what changed between both images takes about %.1f GB, more than the %.1f GB that may be used.",
            earlier / 1e9, resources.memory / 1e9,
        )  # fmt: skip
    estimate = choose_plan(
        *scene.grid.shape, ratio=scene.ratio, n_bands=len(scene.bands), n_msi=len(scene.msi.band_names),
        source_bands=len(scene.bands), spec=spec, budget=budget, tile=tile, overlap=overlap,
        sample_bytes=sample_bytes, workers=resources.threads, wanted=wanted,
    )  # fmt: skip
    return replace(estimate, host_bytes=max(estimate.host_bytes, earlier))


def fuse(
    scene: FusionScene,
    method: FusionMethod,
    estimate: Estimate,
    sink: Sink,
    resources: Resources,
    *,
    tiles: TilePlan | None = None,
    rows_done: int = 0,
    clip: bool = True,
    encoder: RowEncoder | None = None,
    progress: Progress | None = None,
    changed: Callable[[TilePlan], None] | None = None,
    accelerator: Accelerator | None = None,
) -> FusionStatistics:
    """Fuse a scene with a fitted method as planned; see :func:`hsfuse.inference.engine.fuse_scene_tiles`.

    ``tiles`` replaces the estimate's plan: a run that is gone on with keeps to the tiles that it began with. Where a
    GPU's memory is too small for a tile, smaller ones follow (:mod:`hsfuse.inference.backing_off`), and ``changed`` is
    given their plan.

    Raises
    ------
    MemoryBudgetError
        The GPU is too small for the smallest tile.
    """
    planned = tiles or estimate.plan
    if accelerator is None:
        scene, method = tell_change(*filter_guide(scene, method, resources.threads, resources.device))
        # What the fit found out may need less context than what was planned for.
        planned = replace(planned, halo=min(planned.halo, method.spec.halo_px))
    fuse_rows = partial(
        fuse_scene_tiles, scene, method, device=resources.device, accelerator=accelerator, workers=resources.threads,
        clip=clip, memory=_planned_memory(estimate, resources), encoder=encoder, progress=progress,
    )  # fmt: skip
    with bounded_vram(resources.device, resources.vram):
        return fuse_backing_off(
            fuse_rows, planned, sink, ratio=scene.ratio, batch=estimate.batch,
            statistics=count_finished(scene, rows_done), rows_done=rows_done, changed=changed,
        )  # fmt: skip


def _planned_memory(estimate: Estimate, resources: Resources) -> int:
    """Bytes that the process is to hold at most: a repaired guide and its confidence came after the plan."""
    since = max(held_bytes() - estimate.held_bytes, 0) if estimate.held_bytes else 0
    wanted = estimate.host_bytes + since
    return wanted if resources.memory is None else min(wanted, max(resources.memory, estimate.host_bytes))


def fuse_scene_with(
    method: FusionMethod,
    scene: FusionScene,
    sink: Sink,
    resources: Resources,
    *,
    seed: int = 0,
    calibrate: bool = True,
    tile: int | None = None,
    overlap: int | None = None,
    clip: bool = False,
    progress: Progress | None = None,
) -> FusionStatistics:
    """Fit, plan and fuse: float32 reflectance, NaN for nodata, goes to the sink.

    Parameters
    ----------
    method
        Not yet fitted.
    scene, sink, resources
        What is fused, where rows go, what may be used.
    seed
        For methods that draw random numbers.
    calibrate
        Whether the method may find blur and residual shift on the pair.
    tile, overlap
        Sides that the user asked for, in MSI pixels.
    clip
        Cut reflectance to the physical range.
    progress
        Where to show progress.

    Raises
    ------
    OverlapError, MemoryBudgetError, UsageError
        As :func:`fit` and :func:`plan`.
    """
    fit(method.fit, scene, run_context(scene, resources, seed, calibrate=calibrate))
    estimate = plan(scene, method.spec, resources, tile=tile, overlap=overlap)
    return fuse(scene, method, estimate, sink, resources, clip=clip, progress=progress)


def fuse_to_array(
    method: FusionMethod, scene: FusionScene, resources: Resources, *, seed: int = 0, calibrate: bool = True,
    tile: int | None = None, overlap: int | None = None, clip: bool = False, progress: Progress | None = None,
) -> FloatCube:  # fmt: skip
    """Fit, plan and fuse a scene that fits in memory; parameters as for :func:`fuse_scene_with`.

    Returns
    -------
    numpy.ndarray
        Shape (band, row, col) on the scene's fine grid, float32, NaN for nodata.
    """
    fit(method.fit, scene, run_context(scene, resources, seed, calibrate=calibrate))
    return fitted_to_array(method, scene, resources, tile=tile, overlap=overlap, clip=clip, progress=progress)


def fitted_to_array(
    method: FusionMethod, scene: FusionScene, resources: Resources, *, tile: int | None = None,
    overlap: int | None = None, clip: bool = False, progress: Progress | None = None,
) -> FloatCube:  # fmt: skip
    """Plan and fuse a scene with a method that has learned from it; as :func:`fuse_to_array`."""
    result = np.empty((len(scene.bands), *scene.fine_grid.shape), np.float32)

    def keep(row0: int, rows: FloatCube) -> None:
        result[:, row0 : row0 + rows.shape[1]] = rows

    estimate = plan(scene, method.spec, resources, tile=tile, overlap=overlap)
    fuse(scene, method, estimate, keep, resources, clip=clip, progress=progress)
    return result
