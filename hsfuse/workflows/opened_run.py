"""The steps of a run from open products to a finished cube."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hsfuse.allocator import release_freed_memory
from hsfuse.config import RunConfig
from hsfuse.errors import QualityError
from hsfuse.inference import pipeline
from hsfuse.inference.cards import warm_up
from hsfuse.inference.first_rows import reading_first_rows
from hsfuse.inference.strips import rows_of
from hsfuse.log import get_logger
from hsfuse.parallel import allowed_threads
from hsfuse.progress import Step, expect
from hsfuse.resources import Resources
from hsfuse.threads import torch_threads
from hsfuse.workflows.run_result import RunResult
from hsfuse.workflows.steps.adapted import adapt_to_scene, adapted_path, remove_unpublished, unpublished_path
from hsfuse.workflows.steps.behind_method import may_calibrate
from hsfuse.workflows.steps.changes import find_changes, held_by_changes, interpolated_instead, taken_by_changes
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.dates import dates_summary
from hsfuse.workflows.steps.inputs import Pair, used_sources
from hsfuse.workflows.steps.memory import peak_vram_bytes
from hsfuse.workflows.steps.methods import (
    ChosenMethod,
    choose_method,
    fit_method,
    in_steps,
    suit_pair,
    with_guards,
    without_guide,
)
from hsfuse.workflows.steps.prepare import PreparedScene, claim_scene, prepare_scene
from hsfuse.workflows.steps.product import make_product, works_beside
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.workflows.steps.run_summary import SAMPLE_BYTES, method_summary, plan_summary, speed_beside
from hsfuse.writers import WriteOptions, check_output, check_resumable, input_identity, run_identity
from hsfuse.writers.provenance import InputIdentity

_log = get_logger(__name__)


@dataclass(frozen=True)
class OpenedRun:
    """What a run was asked for, and its open products.

    Attributes
    ----------
    pair
        Both products.
    hsi_path, msi_paths
        Where they lie.
    output, config, options
        The cube's place, settings, and how it is written.
    dry_run
        Stop after planning: True without reading images, ``full`` as a run plans.
    """

    pair: Pair
    hsi_path: Path
    msi_paths: Sequence[Path]
    output: Path
    config: RunConfig
    options: WriteOptions
    dry_run: bool | Literal["full"]


def run_opened(
    run: OpenedRun,
    to_come: Callable[..., Sequence[Step]],
    resources: Resources | None,
    clock: StageClock,
    stack: ExitStack,
) -> RunResult:
    """Run all steps after opening, in order.

    Parameters
    ----------
    run
        What to do.
    to_come
        Steps that lie ahead, by what is known of them: see :func:`hsfuse.workflows.steps.foresight.foreseen`.
    resources
        Device, threads and memory; None: as the settings say.
    clock
        Times.
    stack
        Ends with the run.
    """
    pair, output, config, options, dry_run = run.pair, run.output, run.config, run.options, run.dry_run
    quick = dry_run is True
    given = resolved(resources) if resources else resources_of(config)
    stack.enter_context(allowed_threads(given.threads))
    if not quick:
        stack.enter_context(torch_threads(given.threads))
        if given.on_gpu:
            warm_up(given.device)
    chosen = in_steps(suit_pair(choose_method(config, given.device), pair, config), pair)
    if chosen.name != config.method:
        _log.info("Method: %s", chosen.reason)
    network_nm = chosen.method.spec.centre_nm
    inputs: list[InputIdentity] = []
    if not quick:
        inputs = [input_identity(path) for path in (run.hsi_path, *used_sources(pair.msi, run.msi_paths))]
        check_resumable(output, options, run_identity(config.identity(), inputs))
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
        earlier_bytes=taken_by_changes(scene, config, given.threads),
    )  # fmt: skip
    planned = plan_summary(prepared, guarded, estimate, config, given, speed())
    planned_at = clock.total
    expect(clock, to_come(network=chosen.network, planned=planned["plan"]["stage_seconds"]))
    check_output(output, scene.fine_grid, len(scene.bands), options)
    if dry_run:
        planned |= dates_summary(pair.msi) | {"seconds": clock.seconds}
        return RunResult(None, chosen.method.spec.name, chosen.reason, planned)
    repair, prepared, changes = find_changes(prepared, config, given, clock)
    if repair is not None and not repair.trusted:
        chosen = without_guide(chosen, len(scene.bands))
    if works_beside(config, given) and not config.resume:
        source = prepared.scene if repair is None else repair.scene
        reading = stack.enter_context(reading_first_rows(source, rows_of(estimate.plan, 0)))
        if repair is None:
            prepared = replace(prepared, scene=reading)
        else:
            repair = replace(repair, scene=reading)
    repaired = prepared if repair is None else replace(prepared, scene=repair.scene)
    learned, adaptation = _learn(repaired, chosen, output, inputs, config, given, clock)
    release_freed_memory()
    if learned.doubt:
        repair, prepared, changes = interpolated_instead(prepared, repair, changes, learned.doubt, config, given)
    if unpublished_path(output).exists() and adaptation:
        options = replace(options, beside=((unpublished_path(output), adapted_path(output)),))
    about = planned | adaptation | changes | {"method": method_summary(learned)}
    product = make_product(prepared, learned, estimate, output, inputs, options, config, given, about, clock, repair)
    remove_unpublished(output)
    summary = about | product.facts | dates_summary(pair.msi) | _spent(planned, planned_at, clock, given)
    _check_quality(summary.get("scores", {}), config, output)
    quality = product.quality
    return RunResult(
        product.written.path, learned.method.spec.name, learned.reason, summary,
        None if quality is None else quality.report, None if quality is None else quality.level,
    )  # fmt: skip


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
