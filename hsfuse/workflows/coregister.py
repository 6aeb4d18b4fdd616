"""Align any raster to another: field, tie points, aligned image, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from hsfuse import __version__
from hsfuse.config import CoregisterConfig
from hsfuse.coregister.products import coregister_products
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import CoregistrationError, InputError, OutputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers import open_hsi, open_msi
from hsfuse.readers.base import FloatCube, HyperspectralProduct, MultispectralProduct
from hsfuse.readers.raster import RasterMsi
from hsfuse.writers import CubeWriter, WriteOptions

_log = get_logger(__name__)

_ROWS = 128


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
        Image that is right: a Sentinel-2 product, or any raster, not coarser than the target.
    output
        Aligned GeoTIFF on the target's own grid, resampled once.
    field
        GeoTIFF of two bands on the target's grid: dx, dy in metres, to be added to the target's claimed positions.
    tie_points
        GeoJSON with tie and check points.
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
    progress = progress or SilentProgress()
    wanted = [path for path in (output, field, tie_points, report) if path is not None]
    _check_outputs(wanted, overwrite=overwrite)
    with ExitStack() as stack:
        moving = _open_target(target)
        stack.callback(moving.close)
        fixed = open_msi([reference], target=moving.grid)
        stack.callback(fixed.close)
        result = coregister_products(moving, fixed, config, psf=_blur(moving, fixed), progress=progress)
        if report is not None:
            _write_report(report, output, moving, fixed, result)
        if not result.trusted:
            raise CoregistrationError(
                f"The co-registration was rejected: {result.reason}",
                hint="Choose a reference closer in season and with fewer clouds.",
            )
        if field is not None:
            _write_raster(
                field, moving.grid, lambda block: result.field.on_grid(moving.grid.crop(block)), 2, ("dx_m", "dy_m")
            )
        if tie_points is not None:
            _write_points(tie_points, result, moving.grid)
        _write_aligned(output, moving, result, progress, overwrite=overwrite)
    return result


def _check_outputs(paths: list[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already.", hint="Use --overwrite to replace it.")
        if not path.parent.is_dir():
            raise OutputError(f"The folder {path.parent} does not exist.", hint="Create it first.")


def _open_target(path: Path) -> HyperspectralProduct | RasterMsi:
    try:
        return open_hsi(path)
    except InputError as error:
        try:
            with rasterio.open(path):
                pass
        except RasterioError:
            raise error from None
    return RasterMsi(path)


def _blur(target: HyperspectralProduct | RasterMsi, reference: MultispectralProduct) -> Psf:
    """Images of equal pixel size are equally sharp; a coarser target sees the reference through its own PSF."""
    return Psf(1.25) if target.grid.pixel_m > 1.5 * reference.grid.pixel_m else Psf(0.8)


def _write_aligned(
    output: Path,
    target: HyperspectralProduct | RasterMsi,
    result: CoregistrationResult,
    progress: Progress,
    *,
    overwrite: bool,
) -> None:
    resampler = Resampler(target.grid, target.grid, result.field)
    count = len(target.band_names) if isinstance(target, RasterMsi) else len(target.bands)

    def aligned(block: Slice2D) -> FloatCube:
        source = resampler.source_block(block)
        if min(source.shape) < 1:
            return np.full((count, *block.shape), np.nan, np.float32)
        return resampler.apply(target.read(source), source, block)

    if isinstance(target, RasterMsi):
        with progress.stage("resample", total=1.0) as stage:
            _write_raster(output, target.grid, aligned, count, target.band_names)
            stage.advance()
        return
    options = WriteOptions(format="gtiff", dtype="int16", overwrite=overwrite)
    provenance = {"version": __version__, "coregistration": result.to_json()}
    name = f"{target.info.name} aligned by hsfuse {__version__}"
    with CubeWriter(
        output, target.grid, target.bands, options, identity="", provenance=provenance, description=name,
        sensor=target.info.sensor, acquired=target.info.start,
    ) as writer:  # fmt: skip
        with progress.stage("resample", total=target.grid.height) as stage:
            for block in target.grid.row_blocks(_ROWS):
                writer.write_rows(block.row0, aligned(block))
                stage.advance(block.shape[0])
        writer.finish(progress)


def _write_raster(
    path: Path, grid: Grid, read: Callable[[Slice2D], FloatCube], count: int, names: Sequence[str]
) -> None:
    part = path.with_name(path.name + ".part")
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": count, "height": grid.height, "width": grid.width,
        "crs": grid.crs, "transform": grid.transform, "nodata": float("nan"), "compress": "deflate", "predictor": 3,
        "interleave": "band", "bigtiff": "if_safer",
    }  # fmt: skip
    try:
        with rasterio.open(part, "w", **profile) as sink:
            sink.descriptions = tuple(names)
            for block in grid.row_blocks(_ROWS):
                sink.write(read(block), window=block.window)
        part.replace(path)
    except (OSError, RasterioError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}.", hint="Check the folder and the disk.") from error


def _write_points(path: Path, result: CoregistrationResult, grid: Grid) -> None:
    collection = result.tie_points.to_geojson(grid.crs)
    for feature in collection["features"]:
        feature["properties"]["role"] = "tie"
    checks = result.check_points.to_geojson(grid.crs)["features"]
    for feature in checks:
        feature["properties"]["role"] = "check"
    collection["features"] += checks
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(collection), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", hint="Check the folder and the disk."
        ) from error


def _write_report(
    path: Path,
    output: Path,
    target: HyperspectralProduct | RasterMsi,
    reference: MultispectralProduct,
    result: CoregistrationResult,
) -> None:
    from hsfuse.qa.report import ReportData, write_report
    from hsfuse.qa.verdict import judge, thresholds_for

    warnings = [*target.info.warnings, *reference.info.warnings]
    verdict = judge({}, coregistration=result, warnings=warnings, thresholds=thresholds_for(target.grid.pixel_m))
    data = ReportData(
        product=output.name, verdict=verdict, method="co-registration", method_reason=result.reason,
        inputs={"target": target.info, "reference": reference.info}, coregistration=result, bounds=target.grid.bounds,
        notes=warnings,
    )  # fmt: skip
    write_report(path, data)
