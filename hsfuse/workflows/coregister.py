"""Align any raster to another: field, tie points, aligned image, report."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

from hsfuse._version import __version__
from hsfuse.config import CoregisterConfig
from hsfuse.coregister.products import coregister_products
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.degrade import Psf
from hsfuse.errors import CoregistrationError
from hsfuse.grid import Grid
from hsfuse.log import get_logger
from hsfuse.outputs import check_new_files
from hsfuse.process import bounded_block_cache
from hsfuse.progress import Progress, Step, expect
from hsfuse.qa.page import picture_folder
from hsfuse.readers import open_hsi, open_msi, open_product
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.threads import one_blas_thread
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.inputs import date_wish
from hsfuse.workflows.steps.open_guide import brings_panchromatic, own_panchromatic
from hsfuse.workflows.steps.report_files import report_files
from hsfuse.writers import ReportFiles, WriteOptions, check_destination

_log = get_logger(__name__)
_MATCHING = Step("co-register", "match both images in windows, fit the displacement", 4.0)
_RESAMPLING = Step("resample", "bring the image to its true place, in one resampling", 3.0)
_REPORTING = Step("report", "draw before and after, field and errors", 3.0)

_NEEDED_LATER = (
    "scipy.linalg",
    "scipy.sparse",
    "scipy.spatial",
    "hsfuse.workflows.coregistration.aligned_image",
    "hsfuse.workflows.steps.swir",
    "hsfuse.coregister.swir",
)
"""Modules that are imported while images are matched, which leaves the interpreter idle, and not before."""


def coregister_files(
    target: Path,
    reference: Path,
    output: Path,
    *,
    field: Path | None = None,
    tie_points: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
    config: CoregisterConfig | None = None,
    progress: Progress | None = None,
) -> CoregistrationResult:
    """Align ``target`` to ``reference``; the Python face of ``hsfuse coregister``.

    Parameters
    ----------
    target
        Image to be moved: a hyperspectral product, or any raster.
    reference
        Image that is right: a Sentinel-2 product, or any raster, not coarser than the target; of a hyperspectral
        product, its panchromatic image.
    output
        Aligned GeoTIFF on the target's own grid, resampled once.
    field
        GeoTIFF of two bands on the target's grid: dx, dy in metres, to be added to the target's claimed positions.
    tie_points
        GeoPackage (``.gpkg``) or GeoJSON with tie and check points.
    report
        HTML report.
    overwrite
        Replace existing files.
    config
        Settings.
    progress
        Where to show progress.

    Raises
    ------
    CoregistrationError
        No trustworthy alignment was found; the report, when asked for, is written all the same.
    InputError, OverlapError, OutputError
        A file cannot be read or written; the images share no usable area.
    """
    config = config or CoregisterConfig()
    if tie_points is not None:
        from hsfuse.workflows.coregistration.tie_points import check_suffix

        check_suffix(tie_points)
    options = _checked(output, [field, tie_points, report], report, (target, reference), overwrite=overwrite)
    with StageClock(progress) as clock, ExitStack() as stack:
        stack.enter_context(one_blas_thread())
        stack.enter_context(bounded_block_cache())
        to_come = [_MATCHING, _RESAMPLING, *([_REPORTING] if report is not None else [])]
        expect(clock, to_come)
        moving = open_product(target)
        stack.callback(moving.close)
        fixed = _open_reference(reference, moving, config, stack)
        warnings = [*moving.info.warnings, *fixed.info.warnings]
        for warning in warnings:
            _log.warning("%s", warning)
        psf = _blur(moving, fixed)
        beside = stack.enter_context(ThreadPoolExecutor(1))
        beside.submit(_import_what_follows)
        result = coregister_products(moving, fixed, config, psf=psf, progress=clock)
        if not isinstance(moving, HyperspectralProduct) and config.correct_swir:
            _log.warning("--correct-swir has no effect: %s is no cube with wavelengths.", moving.info.name)

        def compare() -> tuple[CoregistrationResult, tuple[str, ...]]:
            """What the aligned image's pixels do not depend on, unless the SWIR bands are to be moved."""
            if not isinstance(moving, HyperspectralProduct):
                return result, ()
            from hsfuse.workflows.steps.swir import with_swir

            return with_swir(result, moving, fixed, config, psf, clock.hidden())

        compared = beside.submit(compare)
        written = beside.submit(lambda: _write_field_and_points(compared.result()[0], moving.grid, field, tie_points))
        if config.correct_swir or not result.trusted:
            result, _ = compared.result()
        if result.trusted:
            from hsfuse.workflows.coregistration.aligned_image import write_aligned

            write_aligned(output, moving, result, clock, options=options, finally_known=lambda: compared.result()[0])
        result, notes = compared.result()
        written.result()
        warnings += notes
        if report is not None:
            _write_report(report, output, moving, fixed, result, config, warnings, clock)
        if not result.trusted:
            raise CoregistrationError(
                f"The co-registration was rejected: {result.reason}",
                hint=result.remedy("Choose a reference closer in season and with fewer clouds") + ".",
            )
    return result


def _write_field_and_points(
    result: CoregistrationResult, grid: Grid, field: Path | None, tie_points: Path | None
) -> None:
    if result.trusted and field is not None:
        from hsfuse.workflows.coregistration.aligned_image import write_field

        write_field(field, grid, result)
    if result.trusted and tie_points is not None:
        from hsfuse.workflows.coregistration.tie_points import write_tie_points

        write_tie_points(tie_points, result, grid.crs)


def _import_what_follows() -> None:
    """Import what the matching's end and the writing need; a failure is raised where it is used."""
    # Torch comes first: all else waits for it.
    for name in ("torch", "hsfuse.coregister.register", *_NEEDED_LATER):
        with suppress(Exception):
            import_module(name)


def _checked(
    output: Path, others: Sequence[Path | None], report: Path | None, inputs: tuple[Path, ...], *, overwrite: bool
) -> WriteOptions:
    """Check the places of all outputs before any work; return how the aligned image is written."""
    about = report_files(output, wanted=False)
    if report is not None:
        about = ReportFiles(report, about.numbers, picture_folder(report), about.picture_names)
    options = WriteOptions(format="gtiff", overwrite=overwrite, inputs=inputs, report=about)
    check_new_files([output, *(path for path in others if path is not None)], inputs, overwrite=overwrite)
    check_destination(output, options)
    return options


def _blur(target: HyperspectralProduct | MultispectralProduct, reference: MultispectralProduct) -> Psf:
    """Images of equal pixel size are equally sharp; a coarser target sees the reference through its own PSF."""
    return Psf(1.25) if target.grid.pixel_m > 1.5 * reference.grid.pixel_m else Psf(0.8)


def _write_report(
    path: Path,
    output: Path,
    target: HyperspectralProduct | MultispectralProduct,
    reference: MultispectralProduct,
    result: CoregistrationResult,
    config: CoregisterConfig,
    warnings: list[str],
    clock: StageClock,
) -> None:
    from hsfuse.qa.coregistration import diagnose
    from hsfuse.qa.report import write_report
    from hsfuse.qa.report_data import ReportData
    from hsfuse.qa.verdict import judge, thresholds_for
    from hsfuse.workflows.coregistration.detail import detail_view

    with clock.stage("report") as stage:
        found = diagnose(result, target.grid.bounds)
        verdict = judge({}, coregistration=found, warnings=warnings, thresholds=thresholds_for(target.grid.pixel_m))
        grid = target.grid
        facts = {
            "Size": f"{grid.height} x {grid.width} pixels of {grid.pixel_m:g} m",
            "Reference system": grid.crs.to_string(),
            "Pixels of the reference": f"{reference.grid.pixel_m:g} m, {reference.grid.crs.to_string()}",
            "Model of the field": result.field.model if result.trusted else "none",
        }
        data = ReportData(
            product=output.name, verdict=verdict, method="co-registration", method_reason=result.reason, fused=False,
            facts=facts,
            inputs={"target": target.info, "reference": reference.info}, coregistration=found,
            alignment=detail_view(target, reference, result), seconds=clock.seconds,
            peak_memory_bytes=clock.memory.bytes, configuration=config.model_dump(mode="json"),
            versions={"hsfuse": __version__}, notes=warnings,
        )  # fmt: skip
        write_report(path, data)
        stage.advance()


def _open_reference(
    path: Path, moving: HyperspectralProduct | MultispectralProduct, config: CoregisterConfig, stack: ExitStack
) -> MultispectralProduct:
    """Open the image that is right; ``stack`` closes it."""
    if brings_panchromatic(path):
        product = open_hsi(path)
        stack.callback(product.close)
        return own_panchromatic(product, stack)
    fixed = open_msi([path], target=moving.grid, verify=config.verify, dates=date_wish(moving, config))
    stack.callback(fixed.close)
    return fixed
