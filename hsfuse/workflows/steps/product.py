"""From a fitted method to a finished product: fused, written and judged, side by side where there are cores for it.

Rows go to a journal as they are fused. What builds the product and what judges it read them there and wait for those
that are still to come, so both may begin with the first row: they do where a card leaves the processor idle, or where
there are more cores than the fusion keeps busy. Else both begin when the last row is safe. Results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from hsfuse._version import __version__
from hsfuse.allocator import release_freed_memory
from hsfuse.config import NOT_CONTENT, RunConfig
from hsfuse.inference import pipeline
from hsfuse.inference.budget import Estimate
from hsfuse.inference.cards import computed_on
from hsfuse.inference.guide_repair import SceneRepair
from hsfuse.inference.tiling import TilePlan
from hsfuse.log import get_logger
from hsfuse.resources import Resources
from hsfuse.threads import one_blas_thread
from hsfuse.workflows.steps.clock import LateStage, StageClock
from hsfuse.workflows.steps.confidence import write_confidence
from hsfuse.workflows.steps.dates import date_map_writer
from hsfuse.workflows.steps.methods import ChosenMethod
from hsfuse.workflows.steps.prepare import PreparedScene
from hsfuse.writers import CubeWriter, WriteOptions, WrittenProduct, provenance_record, run_identity
from hsfuse.writers.confidence_layer import confidence_path
from hsfuse.writers.provenance import InputIdentity

if TYPE_CHECKING:
    from hsfuse.qa.figures import FigureQueue
    from hsfuse.workflows.steps.quality import Quality

_log = get_logger(__name__)

_FEWEST_BESIDE_CARD, _FEWEST_BESIDE_FUSION = 4, 8
"""Threads that a run must have to write and judge while a card, or while the processor fuses."""

COMPUTED_ON = "computed_on"
"""Key of a journal's plan: device and arithmetic of the rows."""


@dataclass(frozen=True)
class Product:
    """A finished product, what was found about it, and facts for the summary."""

    written: WrittenProduct
    quality: Quality | None
    facts: dict[str, Any]


def make_product(
    prepared: PreparedScene,
    chosen: ChosenMethod,
    estimate: Estimate,
    output: Path,
    inputs: Sequence[InputIdentity],
    options: WriteOptions,
    config: RunConfig,
    resources: Resources,
    about: dict[str, Any],
    clock: StageClock,
    repair: SceneRepair | None = None,
) -> Product:
    """Fuse, write and judge.

    Parameters
    ----------
    prepared, chosen, estimate
        The scene, the fitted method, the tiles.
    output, inputs, options
        The cube's place, what it is made of, how it is written.
    config, resources
        Settings, and what may be used.
    about
        Summary of the run so far, for the report.
    clock
        Times.
    repair
        What was found about changes between both images; None where nobody looked.
    """
    scene = prepared.scene if repair is None else repair.scene
    with (
        _figures(config) as figures,
        _writer(prepared, chosen, estimate, output, inputs, options, config, resources, about) as writer,
        ThreadPoolExecutor(3, thread_name_prefix="hsfuse-finish") as beside,
        _promised(writer) as (fused, written),
    ):
        if writer.rows_done:
            _log.info("Going on at row %d of %d.", writer.rows_done, scene.fine_grid.height)
        here = computed_on(resources.device, chosen.method.spec.precision)
        tiles = _tiles_to_follow(writer, estimate, here)

        def changed(plan: TilePlan) -> None:
            nonlocal tiles
            tiles = plan
            writer.change_plan(plan.to_dict() | {COMPUTED_ON: here})

        # What is judged is what is stored; only LERC changes samples on their way into the product.
        rows = writer.stored_rows() if config.report and config.compress != "lerc" else None
        shown = LateStage()

        def judge() -> Quality | None:
            if figures is None:
                return None
            from hsfuse.workflows.steps.quality import assess

            with one_blas_thread():
                return assess(
                    prepared.judged, chosen, lambda: tiles, output, rows, written.result,
                    lambda: about | fused.result(), config, clock, figures, shown, repair,
                )  # fmt: skip

        judging: Future[Quality | None] | None = None
        if works_beside(config, resources):
            writer.build_beside()
            judging = None if rows is None else beside.submit(judge)
        statistics = pipeline.fuse(
            scene, chosen.method, estimate, writer.write_rows, resources, tiles=tiles, rows_done=writer.rows_done,
            clip=config.clip, encoder=writer.encoding, progress=clock, changed=changed,
        )  # fmt: skip
        facts: dict[str, Any] = {"statistics": vars(statistics)}
        fused.set_result(facts)
        release_freed_memory()
        built = Event()
        writing = beside.submit(
            writer.finish, progress=clock if rows is None else clock.hidden(), built=built.set
        )  # fmt: skip
        writing.add_done_callback(partial(_pass_on, written))
        writing.add_done_callback(lambda _: built.set())
        layer: Future[Path] | None = None
        if repair is not None:
            # One after the other: both together, and the judge, would hold more than the fusion does. While the cube
            # is brought to the disk the layer is made.
            layer = beside.submit(
                write_confidence, confidence_path(output), prepared, repair, resources.threads,
                begin=built.wait, publish=written.result,
            )  # fmt: skip
        if rows is None:
            written.result()
        quality = None
        if figures is not None:
            with clock.stage("judge", total=5.0) as stage:
                shown.show(stage)
                quality = judge() if judging is None else judging.result()
        product = written.result()
        if layer is not None:
            facts["confidence"] = str(layer.result())
    facts |= {"output": str(product.path), "sidecars": [str(p) for p in product.sidecars], "bytes": product.bytes}
    if quality is not None:
        facts |= {"scores": quality.scores, "verdict": quality.verdict, "report": str(quality.report)}
    return Product(product, quality, facts)


def _packing_threads(config: RunConfig, resources: Resources) -> int:
    """Threads that compress: one judges meanwhile, and threads that have to share its core would gain nothing."""
    return max(resources.threads - 1, 1) if config.report else resources.threads


def works_beside(config: RunConfig, resources: Resources) -> bool:
    """Whether the product is written and judged while it is fused: it takes memory, and cores that are free."""
    fewest = _FEWEST_BESIDE_CARD if resources.on_gpu else _FEWEST_BESIDE_FUSION
    return config.max_memory is None and resources.threads >= fewest


@contextmanager
def _promised(writer: CubeWriter) -> Iterator[tuple[Future[dict[str, Any]], Future[WrittenProduct]]]:
    """What fusing and writing will have found; whoever waits for them, or for rows, is told when that fails."""
    fused: Future[dict[str, Any]] = Future()
    written: Future[WrittenProduct] = Future()
    try:
        yield fused, written
    except BaseException as error:
        writer.give_up()
        if not fused.done():
            fused.set_exception(error)
            written.set_exception(error)
        raise


def _pass_on(to: Future[WrittenProduct], found: Future[WrittenProduct]) -> None:
    error = found.exception()
    if error is None:
        to.set_result(found.result())
    else:
        to.set_exception(error)


@contextmanager
def _figures(config: RunConfig) -> Iterator[FigureQueue | None]:
    """What draws the report's pictures; None without a report.

    Processes that draw start now, so that they have imported what they need when there is something to draw: not where
    the memory is bounded, of which they take 0.1 GB each, nor for other formats, which are made of the drawings
    themselves.
    """
    if not config.report:
        yield None
        return
    from hsfuse.qa.figures import FigureQueue

    apart = config.max_memory is None and set(config.figures.split(",")) <= {"png"}
    with FigureQueue(None if apart else 0) as figures:
        yield figures


def _writer(
    prepared: PreparedScene, chosen: ChosenMethod, estimate: Estimate, output: Path, inputs: Sequence[InputIdentity],
    options: WriteOptions, config: RunConfig, resources: Resources, about: dict[str, Any],
) -> CubeWriter:  # fmt: skip
    scene, spec = prepared.scene, chosen.method.spec
    provenance = provenance_record(
        config=config.model_dump(mode="json", exclude=set(NOT_CONTENT)), inputs=inputs, method=spec.name,
        model=_model(chosen), coregistration=about["coregistration"], psf_fwhm_px=about["psf_fwhm_px"],
    )  # fmt: skip
    return CubeWriter(
        output, scene.fine_grid, prepared.selection.kept, options, provenance=provenance,
        # The hash too: a file of weights may have been trained anew under the same name.
        identity=run_identity(config.identity(), inputs, f"{spec.name} {spec.weights_sha256 or ''}".rstrip()),
        description=f"hsfuse {__version__}: {scene.hsi.info.name} fused with {scene.msi.info.name}",
        sensor=scene.hsi.info.sensor, acquired=scene.hsi.info.start, threads=_packing_threads(config, resources),
        plan=estimate.plan.to_dict() | {COMPUTED_ON: computed_on(resources.device, spec.precision)},
        layers=date_map_writer(scene),
    )  # fmt: skip


def _tiles_to_follow(writer: CubeWriter, estimate: Estimate, now: str) -> TilePlan:
    """Return the tiles to work with: those of the interrupted run that is gone on with.

    Where that run computed elsewhere or otherwise than ``now``, the log says that the rows differ.
    """
    kept = writer.plan_to_keep
    before = kept.pop(COMPUTED_ON, now)
    if not writer.rows_done:
        return estimate.plan
    if before != now:
        _log.warning(
            "The first %d rows were computed on %s, those that follow are on %s: they agree within rounding, not bit "
            "for bit.", writer.rows_done, before, now,
        )  # fmt: skip
    if not kept or kept == estimate.plan.to_dict():
        return estimate.plan
    _log.info("Going on with the tiles of the interrupted run (%d HSI pixels high).", kept["tile"])
    return TilePlan(**kept)


def _model(chosen: ChosenMethod) -> dict[str, Any] | None:
    spec = chosen.method.spec
    return {"name": spec.name, "sha256": spec.weights_sha256} if spec.weights_sha256 else None
