"""``hsfuse run``: one PRISMA product and one Sentinel-2 product in, one georeferenced cube out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from hsfuse._early import import_torch
from hsfuse.allocator import release_freed_memory
from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError, QualityError
from hsfuse.inference import pipeline
from hsfuse.inference.cards import warm_up
from hsfuse.log import get_logger
from hsfuse.parallel import allowed_threads
from hsfuse.process import bounded_block_cache, is_own
from hsfuse.progress import Progress, expect, progress_here
from hsfuse.readers.given_path import given_path
from hsfuse.resources import Resources
from hsfuse.threads import torch_threads
from hsfuse.workflows.python.settings import RunSettings, documents
from hsfuse.workflows.python.words import speaks_python
from hsfuse.workflows.steps.adapted import (
    adapt_to_scene,
    adapted_path,
    check_adapted_path,
    remove_unpublished,
    unpublished_path,
)
from hsfuse.workflows.steps.behind_method import may_calibrate, suited_quality
from hsfuse.workflows.steps.changes import find_changes, held_by_changes
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.confidence import check_confidence_path, old_confidence
from hsfuse.workflows.steps.dates import dates_summary, with_date_map
from hsfuse.workflows.steps.foresight import foreseen
from hsfuse.workflows.steps.inputs import Pair, open_pair, read_ahead, used_sources
from hsfuse.workflows.steps.memory import peak_vram_bytes
from hsfuse.workflows.steps.methods import (
    ChosenMethod,
    choose_method,
    fit_method,
    in_steps,
    suit_pair,
    with_guards,
)
from hsfuse.workflows.steps.prepare import PreparedScene, claim_scene, prepare_scene
from hsfuse.workflows.steps.product import make_product
from hsfuse.workflows.steps.report_files import report_files
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.workflows.steps.run_summary import SAMPLE_BYTES, method_summary, plan_summary, speed_beside
from hsfuse.writers import WriteOptions, check_destination, check_output, input_identity, journal_folder
from hsfuse.writers.lock import claimed
from hsfuse.writers.provenance import InputIdentity

_log = get_logger(__name__)


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
    summary: dict[str, Any] = field(default_factory=dict, repr=False)
    report: Path | None = None
    verdict: str | None = None


@documents(RunConfig)
@speaks_python
def fuse_scene(
    hsi: str | Path,
    msi: str | Path | Sequence[str | Path] | None,
    output: str | Path,
    *,
    config: RunConfig | None = None,
    dry_run: bool | Literal["full"] = False,
    resources: Resources | None = None,
    progress: Progress | None = None,
    **settings: Unpack[RunSettings],
) -> RunResult:
    """Fuse one scene: the Python face of ``hsfuse run``.

    Parameters
    ----------
    hsi
        PRISMA product (``.he5`` or ``.zip``), or any raster cube with wavelengths.
    msi
        Sentinel-2 product (``.SAFE``, ``MTD_*.xml`` or ``.zip``), several of them, a folder of many dates, or a
        GeoTIFF; None with ``guide="pan"``.
    output
        The cube to write: ``.tif``, ``.tiff`` or ``.img``/``.dat``/``.bil``.
    config
        Settings; the keywords below override it.
    dry_run
        Stop after planning: True checks all that names, headers and masks can tell, for positions as claimed, within
        seconds; ``full`` co-registers, examines the bands and compares checksums as a run does.
    resources
        Device, threads and memory to use; None: as the settings say.
    progress
        Where to show progress; None: in a notebook below the cell, else nowhere.

    Returns
    -------
    RunResult
        What was written, and everything that ``--json`` prints. ``hsfuse.report(result)`` shows its report.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`; each error carries the exit code of the command.

    Examples
    --------
    >>> import hsfuse
    >>> result = hsfuse.fuse_scene("prisma.he5", "s2.SAFE", "out.tif", method="bicubic", bands=20, report=False)
    >>> result.method, result.summary["bands"]["count"]
    ('bicubic', 20)
    """
    base = config or RunConfig()
    resolved = RunConfig.resolve(None, **(base.model_dump(exclude_unset=True) | dict(settings)))
    paths = [Path(msi)] if isinstance(msi, str | Path) else [Path(p) for p in msi or ()]
    with progress_here(progress) as shown:
        return run_scene(Path(hsi), paths, Path(output), resolved, dry_run=dry_run, resources=resources, progress=shown)


def run_scene(
    hsi_path: Path,
    msi_paths: Sequence[Path],
    output: Path,
    config: RunConfig,
    *,
    dry_run: bool | Literal["full"] = False,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all steps in order; see :func:`fuse_scene` for the parameters."""
    hsi_path, msi_paths = given_path(hsi_path), [given_path(path) for path in msi_paths]
    config = suited_quality(config)
    options = WriteOptions(
        format=config.format, dtype=config.dtype, compress=config.compress,
        overwrite=config.overwrite, resume=config.resume, inputs=_input_files(hsi_path, msi_paths, config),
        report=report_files(output, wanted=config.report), stale=old_confidence(output),
    )  # fmt: skip
    # Before anything else: what is wrong with the output's place is known at once.
    check_destination(output, options)
    if config.adapt is not None:
        check_adapted_path(output, options)
    if config.quality != "plain":
        check_confidence_path(output, options)
    with StageClock(progress) as clock, ExitStack() as stack:
        _claim(output, stack, dry_run=bool(dry_run))
        stack.enter_context(bounded_block_cache())
        quick = dry_run is True
        to_come = partial(foreseen, config, dry_run=dry_run)
        expect(clock, to_come())
        pair = _open(
            hsi_path, msi_paths, config.model_copy(update={"verify": False}) if quick else config, clock, stack
        )
        options = with_date_map(options, pair.msi)
        if options.layers:
            check_destination(output, options)
        to_come = partial(to_come, hsi_px=pair.hsi.grid.height * pair.hsi.grid.width, ratio=pair.ratio)
        expect(clock, to_come())
        if not quick:
            read_ahead(pair, config)
        # Their libraries take seconds to import, in which other cores decode images.
        if not quick and is_own():
            import_torch()
        given = resolved(resources) if resources else resources_of(config)
        stack.enter_context(allowed_threads(given.threads))
        if not quick:
            stack.enter_context(torch_threads(given.threads))
            if given.on_gpu:
                warm_up(given.device)
        chosen = in_steps(suit_pair(choose_method(config, given.device), pair, config), pair)
        if chosen.name != config.method:
            _log.info("Method: %s", chosen.reason)
        to_come = partial(to_come, network=chosen.network)
        network_nm = chosen.method.spec.centre_nm
        with speed_beside(given.threads) as speed:
            if quick:
                prepared = claim_scene(pair, config, network_nm=network_nm)
            else:
                prepared = prepare_scene(pair, config, clock, network_nm=network_nm)
        release_freed_memory()
        scene, guarded = prepared.scene, with_guards(chosen, config, prepared.scene)
        estimate = pipeline.plan(
            scene, guarded.method.spec, given, tile=config.tile, overlap=config.overlap,
            sample_bytes=SAMPLE_BYTES[config.dtype], later_bytes=held_by_changes(scene, config),
        )  # fmt: skip
        planned = plan_summary(prepared, guarded, estimate, config, given, speed())
        planned_at = clock.total
        expect(clock, to_come(planned=planned["plan"]["stage_seconds"]))
        check_output(output, scene.fine_grid, len(scene.bands), options)
        if dry_run:
            planned |= dates_summary(pair.msi) | {"seconds": clock.seconds}
            return RunResult(None, chosen.method.spec.name, chosen.reason, planned)
        inputs = [input_identity(path) for path in (hsi_path, *used_sources(pair.msi, msi_paths))]
        repair, prepared, changes = find_changes(prepared, config, given, clock)
        repaired = prepared if repair is None else replace(prepared, scene=repair.scene)
        learned, adaptation = _learn(repaired, chosen, output, inputs, config, given, clock)
        release_freed_memory()
        if unpublished_path(output).exists() and adaptation:
            options = replace(options, beside=((unpublished_path(output), adapted_path(output)),))
        about = planned | adaptation | changes | {"method": method_summary(learned)}
        product = make_product(
            prepared, learned, estimate, output, inputs, options, config, given, about, clock, repair
        )  # fmt: skip
        remove_unpublished(output)
        summary = about | product.facts | dates_summary(pair.msi) | _spent(planned, planned_at, clock, given)
    _check_quality(summary.get("scores", {}), config, output)
    quality = product.quality
    return RunResult(
        product.written.path, learned.method.spec.name, learned.reason, summary,
        None if quality is None else quality.report, None if quality is None else quality.level,
    )  # fmt: skip


def _input_files(hsi_path: Path, msi_paths: Sequence[Path], config: RunConfig) -> tuple[Path, ...]:
    """Everything that a run reads and must not touch."""
    named = [Path(text) for text in (config.aoi, config.bands, config.wavelengths) if text is not None]
    return (
        hsi_path,
        *msi_paths,
        *filter(None, [config.model, config.prior]),
        *(path for path in named if path.is_file()),
    )


def _claim(output: Path, stack: ExitStack, *, dry_run: bool) -> None:
    """Make sure that no other run works for the output: during ``stack``, or now only for a plan."""
    with ExitStack() as at_once:
        (at_once if dry_run else stack).enter_context(claimed(journal_folder(output)))


def _open(
    hsi_path: Path, msi_paths: Sequence[Path], config: RunConfig, clock: StageClock, stack: ExitStack
) -> Pair:  # fmt: skip
    with clock.stage("open") as stage:
        try:
            pair = open_pair(hsi_path, msi_paths, config, stack)
        except HsfuseError:
            # A mistake in the settings is said before one in the files.
            choose_method(config, resources_of(config).device)
            raise
        stage.advance()
    return pair


def _learn(
    prepared: PreparedScene,
    chosen: ChosenMethod,
    output: Path,
    inputs: Sequence[InputIdentity],
    config: RunConfig,
    resources: Resources,
    clock: StageClock,
) -> tuple[ChosenMethod, dict[str, Any]]:
    """Adapt a network to the scene if wanted, fit the method; return it and what the summary says about adapting."""
    scene = prepared.scene
    record: dict[str, Any] = {}
    candidate = with_guards(chosen, config, scene)
    if config.adapt is not None and chosen.network and not candidate.network:
        _log.warning("--adapt had no effect: with --quality %s no network is used.", config.quality)
    elif config.adapt is not None and chosen.network:
        adapted = adapt_to_scene(chosen, scene, output, inputs, config, resources, clock)
        candidate = with_guards(adapted.chosen, config, scene)
        record = {"adaptation": adapted.record} if adapted.record else {}
    with clock.stage("learn from the scene") as stage:
        context = pipeline.run_context(scene, resources, config.seed, calibrate=may_calibrate(config))
        fitted = pipeline.fit(partial(fit_method, candidate, config), scene, context)
        stage.advance()
    return fitted, record


def _spent(planned: dict[str, Any], planned_at: float, clock: StageClock, resources: Resources) -> dict[str, Any]:
    """Times and memory that the run took."""
    return {
        "seconds": {name: round(value, 2) for name, value in clock.seconds.items()},
        "cpu_seconds": {name: round(value, 2) for name, value in clock.cpu_seconds.items()},
        "total_seconds": round(clock.total, 2),
        "plan": planned["plan"] | {"took_seconds": round(clock.total - planned_at, 1)},
        "peak_memory_bytes": clock.memory.bytes,
        "peak_vram_bytes": peak_vram_bytes(resources.device),
    }


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
