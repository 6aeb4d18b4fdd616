"""Judge a finished cube: scores without reference, spectra, pictures, report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection import BandSelection
from hsfuse.config import RunConfig
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.fusion.change.repair import FOREIGN
from hsfuse.grid import Slice2D
from hsfuse.inference.guide_repair import SceneRepair
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.tiling import TilePlan
from hsfuse.parallel import side_by_side, threads_for
from hsfuse.progress import Stage
from hsfuse.qa.change import change_figures
from hsfuse.qa.coregistration import diagnose
from hsfuse.qa.dates import date_figures
from hsfuse.qa.figures import (
    FigureQueue,
    alignment_figures,
    band_figures,
    consistency_figures,
    coregistration_figures,
    detail_figures,
    quicklook_figures,
    seam_figures,
    spectra_figures,
)
from hsfuse.qa.page import prepared_page
from hsfuse.qa.pixels import (
    KINDS,
    PixelStrip,
    PurePixel,
    PurePixelSearch,
    find_pure_pixels,
    inner_spread,
    key_bands,
)
from hsfuse.qa.plain import write_json
from hsfuse.qa.quicklook import AlignmentView, DetailPair, alignment_view, composites, detail_pairs
from hsfuse.qa.report import TEMPLATE, write_report
from hsfuse.qa.report_data import ReportData
from hsfuse.qa.seams import SeamReport, measure_seams
from hsfuse.qa.sources import FunctionSource, ImageSource, ProductSource
from hsfuse.qa.spectra import SpectrumComparison, compare_pixels
from hsfuse.qa.surfaces import check_surfaces, pure_pixel_sam_deg
from hsfuse.qa.verdict import judge, thresholds_for
from hsfuse.workflows.steps.changes import change_view, days_apart, method_sentences
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.dates import dates_view
from hsfuse.workflows.steps.methods import ChosenMethod
from hsfuse.workflows.steps.prepare import PreparedScene
from hsfuse.workflows.steps.report_facts import report_facts, versions
from hsfuse.workflows.steps.report_files import report_files
from hsfuse.workflows.steps.window_scores import score_windows
from hsfuse.writers import StoredRows, WrittenProduct

FloatCube = NDArray[np.float32]
_Made = TypeVar("_Made")
_STRIP_ROWS, _MOST_THREADS = 64, 4
_MAX_BORDERS = 8
_LEAST_SCORE = 0.2
"""Bands of a lower quality do not help to tell surfaces apart."""
_SEAMS_NOT_TOLD = "too little of the tile borders is free of nodata"
_SEAM_NM = (560.0, 860.0, 1650.0)


@dataclass(frozen=True)
class Quality:
    """What the assessment found.

    Attributes
    ----------
    level
        ``good``, ``usable with care`` or ``failed``.
    verdict
        Level and findings as plain values.
    scores
        Name -> value.
    report
        HTML report.
    """

    level: str
    verdict: dict[str, Any]
    scores: dict[str, float | None]
    report: Path


def assess(
    prepared: PreparedScene,
    chosen: ChosenMethod,
    plan: Callable[[], TilePlan],
    output: Path,
    rows: StoredRows | None,
    finished: Callable[[], WrittenProduct],
    summary: Callable[[], dict[str, Any]],
    config: RunConfig,
    clock: StageClock,
    queue: FigureQueue,
    stage: Stage,
    repair: SceneRepair | None = None,
) -> Quality:
    """Score the cube, draw what a person wants to see, write the report and the JSON.

    May begin before the cube is fused: it is looked at from top to bottom, and what is not there yet is waited for.

    Parameters
    ----------
    prepared, chosen
        The scene and the method.
    plan
        Gives the present tiles: a card that is too small may change them on the way.
    output
        Where the cube lies, or will lie.
    rows
        Its samples while it is being made; None: they are read from the finished product.
    finished
        Waits for the finished product.
    summary
        Waits until the cube is fused; gives the facts of the run.
    config, clock
        Settings and times of the run.
    queue
        Draws the pictures.
    stage
        Told of five steps.
    repair
        What was found about changes between both images; None where nobody looked.
    """
    scene = prepared.scene
    centre = scene.hsi.bands.centre_nm[scene.bands]
    files = report_files(output)
    html, numbers = files.page, files.numbers
    fused: FunctionSource | ProductSource
    if rows is None:
        written = finished()
        fused = ProductSource(written.format.open(written.path), centre)
    else:
        fused = FunctionSource(scene.fine_grid.shape, centre, rows.read, shared=True)
    # Pictures are drawn as soon as what they show is known: what compresses the cube leaves time for it.
    aligned = diagnose(prepared.coregistration, scene.hsi.grid.bounds)
    queue.draw(coregistration_figures, aligned)
    queue.draw(band_figures, prepared.selection.table)
    changes = None if repair is None else change_view(repair, list(scene.msi.band_names), days_apart(scene))
    queue.draw(change_figures, changes)
    dates = dates_view(scene, () if repair is None else repair.facts.get("partners", ()))
    queue.draw(date_figures, dates)
    hsi = FunctionSource(scene.grid.shape, centre, lambda block, bands: _read_block(scene, block, bands))
    many = threads_for(_MOST_THREADS) >= _MOST_THREADS
    try:
        # What shows the cube as a whole is made beside what looks at its parts.
        with ThreadPoolExecutor(3 if many else 1, thread_name_prefix="hsfuse-pictures") as pool:
            beside = pool if rows is not None and threads_for(2) > 1 else None
            quicklooks_of = _asked(beside, partial(composites, fused))
            seams_of = _asked(beside, partial(_seams, scene, fused, plan, centre))
            details_of = _asked(beside, partial(detail_pairs, hsi, fused, scene.ratio))
            pure = _pure_pixels(scene, prepared.selection)
            stage.advance()
            windows = score_windows(scene, fused, None if repair is None else repair.change >= FOREIGN)
            queue.draw(consistency_figures, centre, windows.band_rmse, windows.msi_bands)
            stage.advance()
            spectra = _spectra(scene, pure.pixels, fused, centre)
            queue.draw(spectra_figures, spectra)
            quicklooks = quicklooks_of()
            queue.draw(quicklook_figures, quicklooks, scene.fine_grid)
            stage.advance()
            details = details_of()
            queue.draw(detail_figures, details, scene.fine_grid)
            alignment = _alignment(prepared, details)
            queue.draw(alignment_figures, alignment)
            seams = seams_of()
            queue.draw(seam_figures, seams)
            stage.advance()
    finally:
        if rows is None:
            fused.close()  # type: ignore[union-attr]
        else:
            # To give gigabytes of deleted rows back takes a moment: beside the report.
            threading.Thread(target=rows.close, name="hsfuse-release").start()
    # The last rows are still to be fused or compressed: what the page needs besides is made ready meanwhile.
    prepared_page(TEMPLATE)
    facts = summary()
    statistics = facts["statistics"]
    coverage = statistics["valid_pixels"] / max(statistics["total_pixels"], 1)
    scores = dict(windows.scores)
    scores["pure_pixel_sam_deg"] = pure_pixel_sam_deg(spectra)
    if seams is not None:
        scores["seam_ratio"] = seams.score
    verdict = judge(
        scores, coregistration=aligned, coverage=coverage, change_share=None if changes is None else changes.share,
        surfaces=check_surfaces(spectra, pure.shares),
        not_made=windows.not_made | {"seam_ratio": _SEAMS_NOT_TOLD}, warnings=prepared.warnings,
        thresholds=thresholds_for(scene.hsi.grid.pixel_m), min_qnr=config.min_quality,
    )  # fmt: skip
    report = ReportData(
        product=output.name, verdict=verdict, method=chosen.method.spec.name, method_reason=chosen.reason,
        method_reference=chosen.method.spec.reference, method_sentences=method_sentences(facts), grid=scene.fine_grid,
        psf=f"{facts['psf_fwhm_px']:.2f} HSI pixels wide (FWHM), {facts['psf_source']}",
        facts=report_facts(facts, finished(), coverage, dates),
        inputs={"HSI": scene.hsi.info, "MSI": scene.msi.info},
        coregistration=aligned, alignment=alignment, scores=scores,
        centre_nm=centre, consistency=windows.band_rmse, msi_consistency=windows.msi_bands, changes=changes,
        dates=dates, spectra=spectra,
        quicklooks=quicklooks, details=details,
        bands=prepared.selection.table, seams=seams, seconds=clock.seconds,
        peak_memory_bytes=clock.memory.bytes, configuration=facts["config"], versions=versions(),
        notes=[*prepared.warnings, *prepared.selection.notes],
    )  # fmt: skip
    write_report(html, report, queue.finished(), config.figures.split(","))
    write_json(numbers, report)
    stage.advance()
    return Quality(verdict.level, verdict.to_json(), scores, html)


def _asked(beside: Executor | None, work: Callable[[], _Made]) -> Callable[[], _Made]:
    """Begin a piece of work beside others; the answer waits for it. Without an executor it is done when asked for."""
    return work if beside is None else beside.submit(work).result


def _read_block(scene: FusionScene, block: Slice2D, bands: Any) -> FloatCube:
    return scene.read_hsi(block, scene.bands[np.asarray(bands)])


def _pure_pixels(scene: FusionScene, selection: BandSelection) -> PurePixelSearch:
    """Find pure pixels in the HSI, and the share of the scene that looks like each surface class.

    Surfaces are told apart in the product's bands, kept or not: a cube of 20 bands may lack those that matter.
    """
    sound = np.array([row.index for row in selection.table if row.kept or row.score > _LEAST_SCORE], dtype=np.int64)
    sound_nm = scene.hsi.bands.centre_nm[sound]
    key = sound[sorted(set(key_bands(sound_nm).values()))]
    if not key.size:
        return PurePixelSearch((), dict.fromkeys(KINDS))

    def read() -> Iterator[tuple[Slice2D, FloatCube, FloatCube, NDArray[np.bool_]]]:
        for rows in scene.grid.row_blocks(_STRIP_ROWS):
            yield rows, scene.read_hsi(rows, key), *scene.read_msi(rows)

    def strip(given: tuple[Slice2D, FloatCube, FloatCube, NDArray[np.bool_]]) -> PixelStrip:
        rows, hsi, msi, cloud = given
        hidden = cloud | np.any(np.isnan(msi), axis=0)
        r = scene.ratio
        clear = ~np.any(hidden.reshape(rows.shape[0], r, rows.shape[1], r), axis=(1, 3))
        return PixelStrip(rows.row0, hsi, clear & np.all(np.isfinite(hsi), axis=0), inner_spread(msi, r))

    strips = side_by_side(strip, read(), threads_for(_MOST_THREADS))
    return find_pure_pixels(strips, scene.hsi.bands.centre_nm[key])


def _spectra(
    scene: FusionScene, pixels: Sequence[PurePixel], fused: ImageSource, centre: NDArray[np.float64]
) -> tuple[SpectrumComparison, ...]:
    """Compare the cube with the HSI at pure pixels."""
    every = list(range(centre.size))
    return compare_pixels(
        pixels, centre, ratio=scene.ratio,
        read_hsi=scene.read_hsi,
        read_fused=lambda block: fused.read(every, block),
        read_msi=lambda block: _read_msi(scene, block),
        responses=scene.msi.responses,
        read_product=lambda block: scene.read_hsi(block, np.arange(len(scene.hsi.bands))),
        product_nm=scene.hsi.bands.centre_nm,
    )  # fmt: skip


def _read_msi(scene: FusionScene, block: Slice2D) -> FloatCube:
    """Read the MSI of a block that is given in fine pixels and lies inside one HSI pixel or more."""
    r = scene.ratio
    coarse = Slice2D(block.row0 // r, -(-block.row1 // r), block.col0 // r, -(-block.col1 // r))
    msi, _ = scene.read_msi(coarse)
    return msi[:, block.row0 - coarse.row0 * r : block.row1 - coarse.row0 * r,
               block.col0 - coarse.col0 * r : block.col1 - coarse.col0 * r]  # fmt: skip


def _alignment(prepared: PreparedScene, details: tuple[DetailPair, ...]) -> AlignmentView | None:
    """Show the detail window in the MSI, and in the HSI before and after co-registration."""
    scene = prepared.scene
    if not details or prepared.coregistration.verdict == "off":
        return None
    block, r = details[0].block, scene.ratio
    centre = scene.hsi.bands.centre_nm[scene.bands]
    wanted = [int(np.abs(centre - nm).argmin()) for nm in (835.0, 665.0, 560.0)]
    names = scene.msi.band_names
    shown = [names.index(n) for n in ("B08", "B04", "B03") if n in names]
    shown = shown if len(shown) == 3 else [min(i, len(names) - 1) for i in (3, 2, 1)]
    msi, _ = scene.read_msi(block)
    after = scene.read_hsi(block, scene.bands[wanted])
    claimed = Resampler(scene.hsi.grid, scene.grid, DisplacementField.zero())
    source = claimed.source_block(block)
    if min(source.shape) < 1:
        return None
    before = claimed.apply(scene.hsi.read(source, scene.bands[wanted]), source, block)

    def enlarge(cube: FloatCube) -> FloatCube:
        return np.repeat(np.repeat(cube, r, axis=1), r, axis=2)

    return alignment_view(
        msi[shown], enlarge(before), enlarge(after),
        caption=f"Near infrared, red, green; HSI rows {block.row0}-{block.row1}, columns {block.col0}-{block.col1}.",
    )  # fmt: skip


def _seams(
    scene: FusionScene, fused: ImageSource, plan: Callable[[], TilePlan], centre: NDArray[np.float64]
) -> SeamReport | None:
    """Measure the borders of the tiles; those of the tiles that it ended with, where they changed on the way."""
    tiles = plan()
    report = _borders(scene, fused, tiles, centre)
    return report if tiles == plan() else _borders(scene, fused, plan(), centre)


def _borders(scene: FusionScene, fused: ImageSource, plan: TilePlan, centre: NDArray[np.float64]) -> SeamReport | None:
    r = scene.ratio
    rows, cols = plan.row_seams * r, plan.col_edges[1:-1] * r
    if rows.size + cols.size == 0:
        return None
    bands = sorted({int(np.abs(centre - nm).argmin()) for nm in _SEAM_NM})

    def some(edges: NDArray[np.int64]) -> list[int]:
        step = max(-(-edges.size // _MAX_BORDERS), 1)
        return [int(e) for e in edges[::step]]

    return measure_seams(lambda block: fused.read(bands, block), scene.fine_grid.shape, some(rows), some(cols), ratio=r)
