"""From a fitted method to a finished product: fuse, then write and judge side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
from hsfuse.workflows.steps.clock import StageClock
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
    """Fuse, then write and judge side by side: all rows are safe by then, and nobody waits for the compression.

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
    ):
        if writer.rows_done:
            _log.info("Going on at row %d of %d.", writer.rows_done, scene.fine_grid.height)
        here = computed_on(resources.device, chosen.method.spec.precision)
        tiles = _tiles_to_follow(writer, estimate, here)

        def changed(plan: TilePlan) -> None:
            nonlocal tiles
            tiles = plan
            writer.change_plan(plan.to_dict() | {COMPUTED_ON: here})

        statistics = pipeline.fuse(
            scene, chosen.method, estimate, writer.write_rows, resources, tiles=tiles, rows_done=writer.rows_done,
            clip=config.clip, encoder=writer.encoding, progress=clock, changed=changed,
        )  # fmt: skip
        facts: dict[str, Any] = {"statistics": vars(statistics)}
        release_freed_memory()
        # What is judged is what is stored; only LERC changes samples on their way into the product.
        rows = writer.stored_rows() if config.report and config.compress != "lerc" else None
        with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-finish") as beside:
            writing = beside.submit(writer.finish, progress=clock if rows is None else clock.hidden())
            quality = None
            if figures is not None:
                from hsfuse.workflows.steps.quality import assess

                with one_blas_thread():
                    quality = assess(
                        prepared.judged, chosen, tiles, output, rows, writing.result, about | facts, config, clock,
                        figures, repair,
                    )  # fmt: skip
            written = writing.result()
    facts |= {"output": str(written.path), "sidecars": [str(p) for p in written.sidecars], "bytes": written.bytes}
    if repair is not None:
        facts["confidence"] = str(write_confidence(confidence_path(output), prepared, repair, resources.threads))
    if quality is not None:
        facts |= {"scores": quality.scores, "verdict": quality.verdict, "report": str(quality.report)}
    return Product(written, quality, facts)


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
        sensor=scene.hsi.info.sensor, acquired=scene.hsi.info.start, threads=resources.threads,
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
