"""Writing what a co-registration makes: the field as a raster, and the aligned image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from hsfuse._version import __version__
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.coregister.threads import prefetch
from hsfuse.coregister.warp import Resampler
from hsfuse.errors import OutputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.outputs import part_name
from hsfuse.progress import Progress
from hsfuse.readers.base import FloatCube, HyperspectralProduct, MultispectralProduct
from hsfuse.readers.gdal import gdal_name
from hsfuse.readers.stored import StoredAs
from hsfuse.writers import CubeWriter, ReportFiles, WriteOptions
from hsfuse.writers.place import stale_files
from hsfuse.writers.provenance import plain_record
from hsfuse.writers.storage import discard

_ROWS = 128
_PIXELS_AT_ONCE = 1 << 21


def write_field(path: Path, grid: Grid, result: CoregistrationResult) -> None:
    """Write the displacement as two float32 bands on the target's grid: dx, dy in metres, to be added.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    tags = {"SOFTWARE": f"hsfuse {__version__}", "MODEL": result.field.model, "VERDICT": result.verdict}
    if result.swir is not None:
        tags |= {"SWIR_DX_M": f"{result.swir.dx_m:.2f}", "SWIR_DY_M": f"{result.swir.dy_m:.2f}"}
    # Stronger compression takes twice the time for a few per cent of the size.
    profile = {"dtype": "float32", "count": 2, "nodata": None, "predictor": 3, "zlevel": 1}

    def read(block: Slice2D) -> NDArray[np.float32]:
        return result.field.on_grid(grid.crop(block))

    _write_raster(path, grid, read, profile, names=("dx_m", "dy_m"), tags=tags, band_tags=[{"UNITS": "metre"}] * 2)


def write_aligned(
    path: Path,
    target: HyperspectralProduct | MultispectralProduct,
    result: CoregistrationResult,
    progress: Progress,
    *,
    options: WriteOptions,
    finally_known: Callable[[], CoregistrationResult] | None = None,
) -> None:
    """Write the target at its true position on its own grid, resampled once.

    A cube with wavelengths becomes int16 reflectance with all its metadata; any other raster keeps its data type,
    its numbers, its nodata value and its tags. ``finally_known`` returns the result that a cube records about itself,
    when that is still being completed (by what does not move a pixel) while its rows are resampled. ``options`` say
    what lies beside and may go.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    if isinstance(target, HyperspectralProduct):
        _write_cube(path, target, result, progress, options=options, finally_known=finally_known)
    else:
        _write_plain(path, target, result, progress, options.report)


def _write_plain(
    path: Path, target: MultispectralProduct, result: CoregistrationResult, progress: Progress,
    report: ReportFiles | None,
) -> None:  # fmt: skip
    stored = target.stored or StoredAs.reflectance(len(target.band_names))
    moved = Resampler(target.grid, target.grid, result.field)
    count = len(target.band_names)
    with progress.stage("resample", total=target.grid.height) as stage:

        def read(block: Slice2D) -> NDArray[Any]:
            source = moved.source_block(block)
            cube = np.full((count, *block.shape), np.nan, np.float32)
            if min(source.shape) > 0:
                cube = moved.apply(target.read(source), source, block)
            stage.advance(block.shape[0])
            return stored.encode(cube)

        profile = {"dtype": stored.dtype.name, "count": count, "nodata": stored.nodata}
        profile["predictor"] = 3 if stored.dtype.kind == "f" else 2
        _write_raster(
            path, target.grid, read, profile, names=target.band_names, tags=stored.tags, band_tags=stored.band_tags,
            scaling=(stored.tag_scale, stored.tag_offset), report=report,
        )  # fmt: skip


def _write_cube(
    path: Path,
    target: HyperspectralProduct,
    result: CoregistrationResult,
    progress: Progress,
    *,
    options: WriteOptions,
    finally_known: Callable[[], CoregistrationResult] | None,
) -> None:
    swir, stored = target.bands.in_swir(), target.stored_pixels
    parts: list[tuple[Resampler, NDArray[np.int64]]] = [
        (Resampler(stored.grid, target.grid, result.field), np.arange(swir.size))
    ]
    if result.swir is not None and result.swir.corrected:
        own = Resampler(stored.grid, target.grid, result.swir_field)
        parts = [(parts[0][0], np.flatnonzero(~swir)), (own, np.flatnonzero(swir))]

    def aligned(block: Slice2D) -> FloatCube:
        out = np.full((swir.size, *block.shape), np.nan, np.float32)
        for resampler, bands in parts:
            source = resampler.source_block(block)
            if bands.size and min(source.shape) > 0:
                out[bands] = resampler.apply(stored.read(source, bands), source, block)
        return out

    provenance = {"version": __version__, "coregistration": result.to_json()}
    name = f"{target.info.name} aligned by hsfuse {__version__}"
    with CubeWriter(
        path, target.grid, target.bands, options, identity="", provenance=provenance, description=name,
        sensor=target.info.sensor, acquired=target.info.start,
    ) as writer:  # fmt: skip
        with progress.stage("resample", total=target.grid.height) as stage:
            for block, rows in prefetch(aligned, target.grid.row_blocks(_ROWS)):
                writer.write_rows(block.row0, rows)
                stage.advance(block.shape[0])
        if finally_known is not None:
            record = plain_record(provenance | {"coregistration": finally_known().to_json()})
            writer.metadata = replace(writer.metadata, provenance=record)
        writer.finish(progress)


def _write_raster(
    path: Path,
    grid: Grid,
    read: Callable[[Slice2D], NDArray[Any]],
    profile: Mapping[str, Any],
    *,
    names: Sequence[str],
    tags: Mapping[str, str],
    band_tags: Sequence[Mapping[str, str]],
    scaling: tuple[Sequence[float], Sequence[float]] | None = None,
    report: ReportFiles | None = None,
) -> None:
    part = part_name(path)
    common = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "crs": grid.crs, "transform": grid.transform,
        "compress": "deflate", "interleave": "band", "bigtiff": "if_safer",
    }  # fmt: skip
    rows = max(1, min(_ROWS, _PIXELS_AT_ONCE // (grid.width * int(profile["count"]))))
    try:
        with rasterio.open(gdal_name(part), "w", **common, **profile) as sink:
            sink.descriptions = tuple(names)
            sink.update_tags(**tags)
            for band, items in enumerate(band_tags, start=1):
                sink.update_tags(band, **items)
            if scaling is not None:
                sink.scales, sink.offsets = (tuple(values) for values in scaling)
            for block, values in prefetch(read, grid.row_blocks(rows)):
                sink.write(values, window=block.window)
        # First what tells of older pixels: it never lies beside the new ones.
        for item in stale_files(path, report):
            discard(item)
        part.replace(path)
    except (OSError, RasterioError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}.", hint="Check the folder and the disk.") from error
