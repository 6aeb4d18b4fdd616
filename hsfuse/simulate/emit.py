"""Writer of EMIT L2A products: reflectance, positions, geometry lookup table and mask as NASA delivers them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.errors import OutputError
from hsfuse.grid import reproject_xy
from hsfuse.outputs import part_name
from hsfuse.simulate.blocks import CubeBlock, check_block, check_complete
from hsfuse.simulate.swath import SwathGrid
from hsfuse.spectral import BandTable

_BANDS = 285
_FILL = np.float32(-9999.0)
_NOT_RETRIEVED = np.float32(-0.01)
"""What the product holds where water vapour lets nothing through."""
_OPAQUE_NM = ((1325.0, 1435.0), (1770.0, 1965.0))
_MASK_LAYERS = (
    "Cloud flag", "Cirrus flag", "Water flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550", "H2O (g cm-2)",
    "Aggregate Flag",
)  # fmt: skip
_CLOUD, _DILATED, _AGGREGATE = 0, 4, 7
_GLT_STEP_DEG = 0.000542232520256367
_SECONDS_PER_LINE = 0.0093


def emit_bands() -> BandTable:
    """Return bands from 381 to 2493 nm; those that water vapour hides are not good."""
    centre = np.linspace(381.00558, 2492.9238, _BANDS)
    good = ~np.any([(centre > low) & (centre < high) for low, high in _OPAQUE_NM], axis=0)
    return BandTable.make(centre, np.linspace(8.4, 8.8, _BANDS), good=good)


@dataclass(frozen=True)
class EmitLayout:
    """Everything about a simulated product except its pixels.

    Attributes
    ----------
    grid
        Swath where the product claims its pixels; rows are lines of the sensor.
    bands
        Bands, ascending.
    start
        Acquisition time (UTC) of the first line.
    """

    grid: SwathGrid
    bands: BandTable = field(default_factory=emit_bands)
    start: datetime = datetime(2024, 6, 21, 10, 30, 12, tzinfo=UTC)

    @property
    def file_name(self) -> str:
        """Name that NASA would give the product."""
        return f"EMIT_L2A_RFL_001_{self.start:%Y%m%dT%H%M%S}_2417307_012.nc"


def write_emit(folder: Path, layout: EmitLayout, blocks: Iterable[CubeBlock]) -> Path:
    """Write a product and its mask file.

    Parameters
    ----------
    folder
        Gets the two files.
    layout
        Swath, bands and time.
    blocks
        Blocks of whole lines that cover every line exactly once, in any order.

    Returns
    -------
    pathlib.Path
        The reflectance file.

    Raises
    ------
    UsageError
        A block does not fit the layout, or lines are missing or written twice.
    OutputError
        The files cannot be written.
    """
    target = folder / layout.file_name
    mask = target.with_name(target.name.replace("_RFL_", "_MASK_"))
    partial = part_name(target)
    try:
        with h5py.File(partial, "w") as file:
            _write_header(file, layout)
            layers = _write_cube(file, layout, blocks)
        with h5py.File(mask, "w") as file:
            file.attrs["title"] = "EMIT L2A Masks 60 m"
            file["mask"] = layers
            file["sensor_band_parameters/mask_bands"] = np.array(_MASK_LAYERS, dtype="S20")
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: the simulated product could not be written ({error}).") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write_header(file: h5py.File, layout: EmitLayout) -> None:
    lines = layout.grid.height
    end = layout.start + timedelta(seconds=_SECONDS_PER_LINE * lines)
    lon, lat = positions(layout.grid)
    west, north = float(lon.min()), float(lat.max())
    texts = {
        "title": "EMIT L2A Estimated Surface Reflectance 60 m", "platform": "ISS", "instrument": "EMIT",
        "product_version": "V001", "software_build_version": "010621", "processing_level": "L2A",
        "time_coverage_start": f"{layout.start:%Y-%m-%dT%H:%M:%S}+0000",
        "time_coverage_end": f"{end:%Y-%m-%dT%H:%M:%S}+0000",
        "spatial_ref": CRS.from_epsg(4326).to_wkt(),
    }  # fmt: skip
    file.attrs.update(texts)
    file.attrs["geotransform"] = np.array([west, _GLT_STEP_DEG, 0.0, north, 0.0, -_GLT_STEP_DEG])
    file["location/lon"], file["location/lat"] = lon, lat
    file["location/elev"] = np.zeros(layout.grid.shape)
    file["location/glt_x"], file["location/glt_y"] = _lookup(layout.grid, west, north, lon, lat)
    bands = layout.bands
    file["sensor_band_parameters/wavelengths"] = bands.centre_nm.astype(np.float32)
    file["sensor_band_parameters/fwhm"] = bands.fwhm_nm.astype(np.float32)
    file["sensor_band_parameters/good_wavelengths"] = bands.good.astype(np.float32)


def positions(grid: SwathGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude (degrees) of the pixel centres, shape (row, col)."""
    x, y = grid.xy(*np.meshgrid(np.arange(0.0, grid.height), np.arange(0.0, grid.width), indexing="ij"))
    return reproject_xy(grid.crs, CRS.from_epsg(4326), x, y)


def _lookup(
    grid: SwathGrid, west: float, north: float, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Column and line (from 1; 0 outside) of the nearest stored pixel for each pixel of a grid in degrees."""
    shape = (int((north - lat.min()) / _GLT_STEP_DEG) + 1, int((lon.max() - west) / _GLT_STEP_DEG) + 1)
    row, col = np.meshgrid(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5, indexing="ij")
    x, y = reproject_xy(CRS.from_epsg(4326), grid.crs, west + _GLT_STEP_DEG * col, north - _GLT_STEP_DEG * row)
    to_pixels = np.linalg.inv(np.array([grid.down, grid.right]).T)
    line, sample = np.rint(np.tensordot(to_pixels, np.stack([x - grid.x0, y - grid.y0]), axes=1)).astype(np.int32)
    inside = (line >= 0) & (line < grid.height) & (sample >= 0) & (sample < grid.width)
    return np.where(inside, sample + 1, 0).astype(np.int32), np.where(inside, line + 1, 0).astype(np.int32)


def _write_cube(file: h5py.File, layout: EmitLayout, blocks: Iterable[CubeBlock]) -> NDArray[np.float32]:
    """Write the reflectance; returns the layers of the mask file, shape (row, col, layer)."""
    shape = layout.grid.shape
    cube = file.create_dataset("reflectance", (*shape, len(layout.bands)), np.float32)
    cube.attrs["_FillValue"] = _FILL
    layers = np.zeros((*shape, len(_MASK_LAYERS)), np.float32)
    written = np.zeros(shape[0], np.int64)
    for block in blocks:
        span = check_block(block, len(layout.bands), shape)
        values = np.where(np.isfinite(block.reflectance), block.reflectance, _FILL)
        values[~layout.bands.good] = np.where(block.footprint, _NOT_RETRIEVED, _FILL)
        cube[span] = np.moveaxis(values, 0, -1)
        if block.cloud is not None:
            for layer in (_CLOUD, _DILATED, _AGGREGATE):
                layers[span, :, layer] = block.cloud
        written[span] += 1
    check_complete(written, "reflectance")
    return layers
