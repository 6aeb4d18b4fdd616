"""The main job: one PRISMA product and one Sentinel-2 product in, one georeferenced cube out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from hsfuse._early import short_turns
from hsfuse._version import __version__
from hsfuse.allocator import keep_freed_memory, release_freed_memory
from hsfuse.config import NOT_CONTENT, RunConfig
from hsfuse.errors import HsfuseError, QualityError, UsageError
from hsfuse.inference.budget import Estimate, choose_plan, make_budget
from hsfuse.inference.engine import fuse_scene_tiles, single_thread
from hsfuse.inference.speed import measure_speed, predict_seconds
from hsfuse.inference.tiling import TilePlan
from hsfuse.log import get_logger
from hsfuse.processor import usable_cores
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import ProductInfo
from hsfuse.workflows.steps.adapted import adapt_to_scene
from hsfuse.workflows.steps.clock import StageClock, peak_memory_bytes
from hsfuse.workflows.steps.inputs import open_pair, read_ahead
from hsfuse.workflows.steps.methods import (
    ChosenMethod,
    choose_method,
    fit_method,
    fusion_context,
    resolve_device,
    suit_pair,
    with_guards,
)
from hsfuse.workflows.steps.prepare import PreparedScene, prepare_scene
from hsfuse.writers import (
    CubeWriter,
    WriteOptions,
    WrittenProduct,
    check_output,
    input_identity,
    provenance_record,
    run_identity,
)
from hsfuse.writers.provenance import InputIdentity

if TYPE_CHECKING:
    from hsfuse.workflows.steps.quality import Quality

_log = get_logger(__name__)

_SAMPLE_BYTES = {"int16": 2, "uint16": 2, "float32": 4}
_IO_BYTES_PER_SECOND = 150e6
_GPU_FLOP_PER_SECOND = 2e13


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Attributes
    ----------
    output
        The cube; None after a dry run.
    method, method_reason
        What made it and why.
    summary
        Everything that ``--json`` prints: inputs, grid, bands, co-registration, statistics, scores, times.
    report
        HTML report, when written.
    verdict
        ``good``, ``usable with care`` or ``failed``; None without quality assessment.
    """

    output: Path | None
    method: str
    method_reason: str
    summary: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None
    verdict: str | None = None


def fuse_scene(
    hsi: str | Path,
    msi: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    config: RunConfig | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> RunResult:
    """Fuse one scene: the Python face of ``hsfuse run``.

    Parameters
    ----------
    hsi
        PRISMA product (``.he5`` or ``.zip``), or any raster cube with wavelengths.
    msi
        Sentinel-2 product (``.SAFE``, ``MTD_*.xml`` or ``.zip``), several of them, or a GeoTIFF.
    output
        The cube to write: ``.tif``, ``.tiff`` or ``.img``/``.dat``/``.bil``.
    config
        Settings; keyword ``settings`` of the same names override it.
    dry_run
        Stop after planning.
    progress
        Where to show progress.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`; each error carries the exit code of the command.
    """
    base = config or RunConfig()
    resolved = RunConfig.resolve(None, **(base.model_dump(exclude_unset=True) | settings))
    paths = [Path(msi)] if isinstance(msi, str | Path) else [Path(p) for p in msi]
    if not paths:
        raise UsageError("No Sentinel-2 product was given.")
    return run_scene(Path(hsi), paths, Path(output), resolved, dry_run=dry_run, progress=progress)


def run_scene(
    hsi_path: Path,
    msi_paths: Sequence[Path],
    output: Path,
    config: RunConfig,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run all steps in order; see :func:`fuse_scene` for the parameters."""
    keep_freed_memory()
    clock = StageClock(progress or SilentProgress())
    options = WriteOptions(
        format=config.format, dtype=config.dtype, compress=config.compress,
        overwrite=config.overwrite, resume=config.resume,
    )  # fmt: skip
    with ExitStack() as stack:
        with clock.stage("open") as stage:
            try:
                pair = open_pair(hsi_path, msi_paths, config, stack)
            except HsfuseError:
                # A mistake in the settings is said before one in the files.
                _choose(config)
                raise
            stage.advance()
        if not dry_run:
            # Before minutes of work, not after: a rough check of the output's place.
            check_output(output, pair.msi.grid, 1, options)
        read_ahead(pair, config)
        device, chosen = _choose(config)
        chosen = suit_pair(chosen, pair, config)
        prepared = prepare_scene(pair, config, clock, network_nm=chosen.method.spec.centre_nm)
        release_freed_memory()
        guarded = with_guards(chosen, config, prepared.scene)
        estimate = _plan(prepared, guarded, config, device)
        summary = _summary(prepared, guarded, estimate, config, device)
        planned_at = clock.total
        if dry_run:
            summary["seconds"] = clock.seconds
            return RunResult(None, chosen.method.spec.name, chosen.reason, summary)
        check_output(output, prepared.scene.fine_grid, len(prepared.scene.bands), options)
        inputs = [input_identity(path) for path in (hsi_path, *msi_paths)]
        if config.adapt is not None and chosen.network:
            adapted = adapt_to_scene(chosen, prepared.scene, output, inputs, config, device, clock)
            guarded = with_guards(adapted.chosen, config, prepared.scene)
            summary["adaptation"] = adapted.record
        chosen = _fit(prepared, guarded, config, device, clock)
        summary["method"] = _method(chosen)
        release_freed_memory()
        written, quality = _make(prepared, chosen, estimate, output, inputs, options, config, device, summary, clock)
        report, verdict = None, None
        if quality is not None:
            report, verdict = quality.report, quality.level
            summary |= {"scores": quality.scores, "verdict": quality.verdict, "report": str(quality.report)}
        summary["seconds"] = {name: round(value, 2) for name, value in clock.seconds.items()}
        summary["cpu_seconds"] = {name: round(value, 2) for name, value in clock.cpu_seconds.items()}
        summary["total_seconds"] = round(clock.total, 2)
        summary["plan"]["took_seconds"] = round(clock.total - planned_at, 1)
        summary["peak_memory_bytes"] = peak_memory_bytes()
    _check_quality(summary.get("scores", {}), config, output)
    return RunResult(written.path, chosen.method.spec.name, chosen.reason, summary, report, verdict)


def _choose(config: RunConfig) -> tuple[str, ChosenMethod]:
    """Device and method; their libraries take seconds to import, in which other cores decode images."""
    with short_turns():
        import torch

        device = resolve_device(config.device)
        torch.set_num_threads(cpu_threads(config.threads))
        return device, choose_method(config, device)


def cpu_threads(wanted: int | None) -> int:
    """CPU threads to use: as asked for, else all that this process may run on."""
    return wanted or usable_cores()


def _plan(prepared: PreparedScene, chosen: ChosenMethod, config: RunConfig, device: str) -> Estimate:
    scene, spec = prepared.scene, chosen.method.spec
    # Tiles that overlap are cut to fit what is valid, so how much is computed depends on it.
    wanted = scene.expected_pixels() if spec.overlap_px and not device.startswith("cuda") else None
    return choose_plan(
        *scene.grid.shape, ratio=scene.ratio, n_bands=len(scene.bands), n_msi=len(scene.msi.band_names),
        source_bands=len(scene.bands), spec=spec, budget=make_budget(device, config.max_memory, config.max_vram),
        tile=config.tile, overlap=config.overlap, sample_bytes=_SAMPLE_BYTES[config.dtype],
        workers=cpu_threads(config.threads), wanted=wanted,
    )  # fmt: skip


def _fit(
    prepared: PreparedScene, chosen: ChosenMethod, config: RunConfig, device: str, clock: StageClock
) -> ChosenMethod:
    scene = prepared.scene
    with clock.stage("learn from the scene") as stage, single_thread(), threadpool_limits(1, user_api="blas"):
        # A PSF that was given, and positions that were declared right, are taken at their word.
        free = config.psf_fwhm == "auto" and config.coregister != "off"
        context = fusion_context(scene, device, config.seed, calibrate=free)
        fitted = fit_method(chosen, config, context, list(scene.low_resolution_strips()))
        stage.advance()
    return fitted


def _make(
    prepared: PreparedScene,
    chosen: ChosenMethod,
    estimate: Estimate,
    output: Path,
    inputs: Sequence[InputIdentity],
    options: WriteOptions,
    config: RunConfig,
    device: str,
    summary: dict[str, Any],
    clock: StageClock,
) -> tuple[WrittenProduct, Quality | None]:
    """Fuse, then write and judge side by side: all rows are safe by then, and nobody waits for the compression."""
    scene, spec = prepared.scene, chosen.method.spec
    # The hash too: a file of weights may have been trained anew under the same name.
    identity = run_identity(config.identity(), inputs, f"{spec.name} {spec.weights_sha256 or ''}".rstrip())
    provenance = provenance_record(
        config=config.model_dump(mode="json", exclude=set(NOT_CONTENT)), inputs=inputs,
        method=chosen.method.spec.name, model=_model(chosen),
        coregistration=summary["coregistration"], psf_fwhm_px=summary["psf_fwhm_px"],
    )  # fmt: skip
    writer = CubeWriter(
        output, scene.fine_grid, prepared.selection.kept, options, identity=identity, provenance=provenance,
        description=f"hsfuse {__version__}: {scene.hsi.info.name} fused with {scene.msi.info.name}",
        sensor=scene.hsi.info.sensor, acquired=scene.hsi.info.start, threads=config.threads,
        plan=estimate.plan.to_dict(),
    )  # fmt: skip
    with writer:
        if writer.rows_done:
            _log.info("Going on at row %d of %d.", writer.rows_done, scene.fine_grid.height)
        plan = _plan_to_follow(writer, estimate)
        statistics = fuse_scene_tiles(
            scene, chosen.method, plan, writer.write_rows, device=device, batch=estimate.batch,
            workers=cpu_threads(config.threads), rows_done=writer.rows_done, clip=config.clip,
            memory=estimate.host_bytes, encoder=writer.encoding, progress=clock,
        )  # fmt: skip
        summary["statistics"] = vars(statistics)
        release_freed_memory()
        # What is judged is what is stored; only LERC changes samples on their way into the product.
        rows = writer.stored_rows() if config.report and config.compress != "lerc" else None
        quality: Quality | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-finish") as beside:
            writing = beside.submit(writer.finish, progress=clock if rows is None else clock.hidden())
            if config.report:
                from hsfuse.workflows.steps.quality import assess

                with threadpool_limits(1, user_api="blas"):
                    quality = assess(prepared, chosen, plan, output, rows, writing.result, summary, config, clock)
            written = writing.result()
    summary |= {"output": str(written.path), "sidecars": [str(p) for p in written.sidecars], "bytes": written.bytes}
    return written, quality


def _plan_to_follow(writer: CubeWriter, estimate: Estimate) -> TilePlan:
    """Return the tiles to work with: those of the interrupted run that is gone on with."""
    kept = writer.plan_to_keep
    if not writer.rows_done or not kept or kept == estimate.plan.to_dict():
        return estimate.plan
    _log.info("Going on with the tiles of the interrupted run (%d HSI pixels high).", kept["tile"])
    return TilePlan(**kept)


def _model(chosen: ChosenMethod) -> dict[str, Any] | None:
    spec = chosen.method.spec
    return {"name": spec.name, "sha256": spec.weights_sha256} if spec.weights_sha256 else None


def _summary(
    prepared: PreparedScene, chosen: ChosenMethod, estimate: Estimate, config: RunConfig, device: str
) -> dict[str, Any]:
    scene, plan = prepared.scene, estimate.plan
    fine = scene.fine_grid
    samples = fine.height * fine.width * len(scene.bands)
    raw = samples * _SAMPLE_BYTES[config.dtype]
    return {
        "hsfuse": __version__,
        "config": config.model_dump(mode="json"),
        "inputs": {"hsi": _describe(scene.hsi.info), "msi": _describe(scene.msi.info)},
        "method": _method(chosen),
        "warnings": list(prepared.warnings),
        "coregistration": prepared.coregistration.to_json(),
        "psf_fwhm_px": scene.psf.fwhm_px,
        "psf_estimated": prepared.psf_estimated,
        "psf_source": prepared.psf_source,
        "grid": {"crs": fine.crs.to_string(), "bounds": list(fine.bounds), "pixel_m": fine.pixel_m,
                 "height": fine.height, "width": fine.width, "ratio": scene.ratio},
        "bands": {"count": len(scene.bands), "of": len(scene.hsi.bands),
                  "centre_nm": [round(float(v), 2) for v in scene.hsi.bands.centre_nm[scene.bands]]},
        "plan": {
            "device": device, "tiles": len(plan), "tile_px": plan.tile * scene.ratio,
            "overlap_px": plan.overlap * scene.ratio, "halo_px": plan.halo * scene.ratio, "batch": estimate.batch,
            "computed_pixels": estimate.pixels,
            "peak_memory_bytes": estimate.host_bytes, "peak_vram_bytes": estimate.vram_bytes,
            "disk_bytes": raw,
            "estimated_seconds": round(
                _guess_seconds(estimate, chosen, config, samples, raw, device) + _adapt_seconds(chosen, config), 1
            ),
        },
    }  # fmt: skip


def _method(chosen: ChosenMethod) -> dict[str, Any]:
    spec = chosen.method.spec
    return {
        "name": spec.name, "reason": chosen.reason, "reference": spec.reference, "precision": spec.precision,
        "weights_sha256": spec.weights_sha256, "trust": chosen.trust.to_json() if chosen.trust else None,
        "calibration": chosen.calibration.to_json() if chosen.calibration else None,
        "denoising": chosen.denoising.to_json() if chosen.denoising else None,
    }  # fmt: skip


def _guess_seconds(
    estimate: Estimate, chosen: ChosenMethod, config: RunConfig, samples: int, raw_bytes: int, device: str
) -> float:
    """Seconds from the plan to the finished product: by what this machine is measured to do right now."""
    if device.startswith("cuda"):
        return estimate.flop / _GPU_FLOP_PER_SECOND + raw_bytes / _IO_BYTES_PER_SECOND
    speed = measure_speed(cpu_threads(config.threads))
    return predict_seconds(estimate, chosen.method.spec, samples, speed, judged=config.report)


def _adapt_seconds(chosen: ChosenMethod, config: RunConfig) -> float:
    return 60.0 * config.adapt if config.adapt is not None and chosen.network else 0.0


def _describe(info: ProductInfo) -> dict[str, Any]:
    return {
        "name": info.name, "sensor": info.sensor, "level": info.level, "path": str(info.path),
        "start": info.start.isoformat() if info.start else None,
        "sun_zenith_deg": info.sun_zenith_deg, "sun_azimuth_deg": info.sun_azimuth_deg,
        "view_zenith_deg": info.view_zenith_deg,
    }  # fmt: skip


def _check_quality(scores: dict[str, Any], config: RunConfig, output: Path) -> None:
    qnr = scores.get("qnr")
    if config.min_quality is None:
        return
    if qnr is None:
        raise QualityError(
            f"There is no QNR to compare with --min-quality: no part of {output} is free of nodata and large enough.",
            hint="The product was written all the same; read the report beside it.",
        )
    if qnr < config.min_quality:
        raise QualityError(
            f"QNR is {qnr:.3f}, below the wanted {config.min_quality:.3f}; {output} was written all the same.",
            hint="Read the report beside the output.",
        )
