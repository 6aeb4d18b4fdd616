"""Writer of PRISMA products: the groups, shapes, types and attributes of the real format, any size and level.

The file has the layout of ASI's products (HDF-EOS5 swath, cubes stored row x band slot x column, both detectors
from long to short wavelength, empty slots, contiguous datasets), so that a reader which copes with a real product
copes with this one and the other way round. Everything is written in blocks of rows; the memory needed is a few
times one block.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError, UsageError
from hsfuse.outputs import part_name
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED
from hsfuse.simulate.blocks import CubeBlock, PanBlock, check_block, check_complete
from hsfuse.simulate.prisma_bands import SWIR_SLOTS, VNIR_SLOTS, default_prisma_bands
from hsfuse.simulate.prisma_header import global_attributes, lonlat_block, smile_matrices, structure_metadata
from hsfuse.simulate.prisma_layout import DN_MAX, PrismaLayout

__all__ = ["CubeBlock", "PanBlock", "PrismaLayout", "default_prisma_bands", "write_prisma"]

SLOTS = {"VNIR": VNIR_SLOTS, "SWIR": SWIR_SLOTS}
_CLEAR, _CLOUD, _BARE = 0, 1, 2
"""Codes of the masks of L1: clear, cloud; bare land."""


def write_prisma(
    path: Path | str,
    layout: PrismaLayout,
    blocks: Iterable[CubeBlock],
    *,
    pan_blocks: Iterable[PanBlock] | None = None,
) -> Path:
    """Write a PRISMA product, block by block.

    Parameters
    ----------
    path
        Output file, or an existing folder that gets a file with ASI's name. An existing file is replaced once the
        new one is complete.
    layout
        Level, grid, bands, scales, times and geometry.
    blocks
        Blocks of whole rows that cover every row exactly once, in any order. Plain tuples do as well.
    pan_blocks
        The same for the panchromatic image (of L2D); without it the product has no ``PRS_L2D_PCO`` group.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    UsageError
        A block does not fit the layout, or rows are missing or written twice.
    OutputError
        The file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        target = target / layout.file_name
    partial = part_name(target)
    try:
        with h5py.File(partial, "w") as file:
            _write_header(file, layout, has_pan=pan_blocks is not None)
            _write_cubes(file[layout.swath("HCO")], layout, blocks)
            if pan_blocks is not None:
                _write_pan(file[layout.swath("PCO")], layout, pan_blocks)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: the simulated product could not be written ({error}).") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write_header(file: h5py.File, layout: PrismaLayout, *, has_pan: bool) -> None:
    for name, value in {**global_attributes(layout, has_pan=has_pan), **layout.attributes}.items():
        if value is not None:
            # Fixed-length strings, as in the real files.
            file.attrs[name] = np.bytes_(value) if isinstance(value, str | bytes) else value
    information = file.create_group("HDFEOS INFORMATION")
    information.attrs["HDFEOSVersion"] = np.bytes_("HDFEOS_5.1.15")
    information["StructMetadata.0"] = np.array(structure_metadata(layout, has_pan=has_pan), dtype="S32000")
    file.create_group("HDFEOS/ADDITIONAL/FILE_ATTRIBUTES")
    for kind in ("HCO", "PCO") if has_pan else ("HCO",):
        for fields in ("Data Fields", "Geolocation Fields"):
            file.create_group(f"{layout.swath(kind)}/{fields}")
    if layout.level == "2D":
        ancillary = file.create_group("HDFEOS/SWATHS/Geocoding_attributes/Ancillary")
        ancillary.attrs["DEM_resolution"] = 8.33e-4
        ancillary.attrs["DEM_vertical_accuracy"] = 16.0
    for name, matrix in smile_matrices(layout).items():
        file[f"KDP_AUX/{name}"] = matrix
    columns = 1000
    missing = np.zeros(columns, np.uint8)
    missing[list(layout.missing_frames)] = 1
    file["Info/Header/Frame_Missing"] = missing
    file["Info/Header/FrameNumber"] = np.arange(1, columns + 1, dtype=np.uint32)
    file["Info/Ancillary/PVSdata/GPS_Time_Last_Position"] = np.full(columns, _mjd2000(layout.start))


def _mjd2000(moment: datetime) -> float:
    return (moment - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() / 86400.0


def _positions(layout: PrismaLayout) -> list[tuple[str, int]]:
    """Names of the position arrays, each with its place in a pair of longitude and latitude."""
    ends = ("_VNIR", "_SWIR") if layout.level == "1" else ("",)
    return [(f"{name}{end}", place) for end in ends for place, name in enumerate(("Longitude", "Latitude"))]


def _write_cubes(swath: h5py.Group, layout: PrismaLayout, blocks: Iterable[CubeBlock]) -> None:
    rows, cols = shape = layout.grid.shape
    data, geolocation = swath["Data Fields"], swath["Geolocation Fields"]
    for detector, slots in SLOTS.items():
        data.create_dataset(f"{detector}_Cube", (rows, slots, cols), np.uint16)
        data.create_dataset(f"{detector}_{layout.error_matrix}", (rows, slots, cols), np.uint8)
    for name, _ in _positions(layout):
        geolocation.create_dataset(name, shape, np.float32)
    if layout.level == "1":
        for name in ("Cloud_Mask", "SunGlint_Mask"):
            data.create_dataset(name, shape, np.uint8)
        data.create_dataset("LandCover_Mask", shape, np.uint8, fillvalue=_BARE)
    else:
        for name in ("Observing_Angle", "Rel_Azimuth_Angle", "Solar_Zenith_Angle"):
            swath.create_dataset(f"Geometric Fields/{name}", shape, np.float32)
    step = layout.duration_s / 86400.0 / max(rows - 1, 1)
    geolocation["Time"] = _mjd2000(layout.start) + step * np.arange(rows)

    written = np.zeros(rows, np.int64)
    for block in blocks:
        block = CubeBlock(*block)
        span, valid = check_block(block, len(layout.bands), shape), block.footprint
        for detector in SLOTS:
            dn, codes = _encode(layout, detector, block, valid)
            data[f"{detector}_Cube"][span] = dn
            data[f"{detector}_{layout.error_matrix}"][span] = codes
        lonlat = lonlat_block(layout.grid, span.start, span.stop)
        for name, place in _positions(layout):
            geolocation[name][span] = lonlat[place]
        if layout.level == "1":
            hidden = np.zeros(valid.shape, np.bool_) if block.cloud is None else block.cloud
            data["Cloud_Mask"][span] = np.where(hidden, _CLOUD, _CLEAR)
        else:
            for name, angle in _angles(layout, span).items():
                swath[f"Geometric Fields/{name}"][span] = np.where(valid, angle, 0.0)
        written[span] += 1
    check_complete(written, "cube")


def _encode(
    layout: PrismaLayout, detector: str, block: CubeBlock, valid: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Digital numbers and error codes of one detector, shape (row, slot, col)."""
    _, rows, cols = block.reflectance.shape
    low, per_unit = layout.encoding(detector)
    high = low + DN_MAX / per_unit
    radiance = layout.radiance_of_white
    # 0 means "no data" (not in L1), so the smallest value that a good sample can have is 1.
    least = 0 if layout.level == "1" else 1
    dn = np.zeros((rows, SLOTS[detector], cols), np.uint16)
    codes = np.zeros(dn.shape, np.uint8)
    for index, slot in enumerate(layout.bands.slot):
        if layout.bands.detector[index] != detector:
            continue
        values = block.reflectance[index]
        if radiance is not None:
            values = values * np.float32(radiance[index])
        good = valid & np.isfinite(values)
        numbers = np.rint((np.where(good, values, low) - low) * per_unit)
        dn[:, slot, :] = np.where(good, np.clip(numbers, least, DN_MAX), 0)
        if block.error_codes is not None:
            codes[:, slot, :] = np.where(valid, block.error_codes[index], 0)
        else:
            codes[:, slot, :] = np.select(
                [~valid, ~good, values < 0, values > high], [0, ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED], 0
            )
    return dn, layout.error_codes(codes)


def _angles(layout: PrismaLayout, rows: slice) -> dict[str, NDArray[np.float64]]:
    """Angles of some rows, in degrees, shape (row, col): a plane across the swath, never 0."""
    height, width = layout.grid.shape
    across = np.linspace(-1.2, 1.2, width)[None, :]
    along = np.linspace(-0.02, 0.02, height)[rows, None]
    return {
        "Observing_Angle": np.maximum(np.abs(layout.view_zenith_deg + across + 0 * along), 0.01),
        "Rel_Azimuth_Angle": layout.relative_azimuth_deg + 0.1 * across + along,
        "Solar_Zenith_Angle": np.maximum(layout.sun_zenith_deg + 0.05 * across + along, 0.01),
    }


def _write_pan(swath: h5py.Group, layout: PrismaLayout, blocks: Iterable[PanBlock]) -> None:
    grid = layout.pan_grid
    rows, cols = grid.shape
    low, high = layout.pan_scale
    data, geolocation = swath["Data Fields"], swath["Geolocation Fields"]
    cube = data.create_dataset("Cube", (rows, cols), np.uint16)
    codes = data.create_dataset("PIXEL_L2_ERR_MATRIX", (rows, cols), np.uint8)
    latitudes = geolocation.create_dataset("Latitude", (rows, cols), np.float32)
    longitudes = geolocation.create_dataset("Longitude", (rows, cols), np.float32)
    written = np.zeros(rows, np.int64)
    for block in blocks:
        row0, values = block
        count = values.shape[0]
        if values.shape != (count, cols) or not 0 <= row0 <= rows - count:
            raise UsageError(
                f"A panchromatic block of shape {values.shape} at row {row0} does not fit {rows} x {cols} pixels."
            )
        span = slice(row0, row0 + count)
        good = np.isfinite(values)
        numbers = np.rint((np.where(good, values, low) - low) * (DN_MAX / (high - low)))
        cube[span] = np.where(good, np.clip(numbers, 1, DN_MAX), 0).astype(np.uint16)
        codes[span] = np.where(good & (values > high), ERROR_SATURATED, 0)
        longitudes[span], latitudes[span] = lonlat_block(grid, span.start, span.stop)
        written[span] += 1
    check_complete(written, "panchromatic image")
