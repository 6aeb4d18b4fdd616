"""Header of simulated PRISMA products: global attributes, structure metadata, smile matrices, lat/lon arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.errors import UsageError
from hsfuse.grid import Grid, reproject_xy
from hsfuse.simulate.prisma_bands import SWIR_SLOTS, VNIR_SLOTS
from hsfuse.simulate.prisma_layout import L1_SCALE, PrismaLayout
from hsfuse.simulate.swath import SwathGrid

DETECTOR_COLUMNS = 1000
"""Pixels of a detector row; the smile matrices have one row for each, whatever the size of the map."""
LATTICE_PX = 16


def global_attributes(layout: PrismaLayout, *, has_pan: bool) -> dict[str, Any]:
    """Global attributes, spelt as in ASI's products (lists as arrays)."""
    values: dict[str, Any] = {
        "Processing_Level": layout.level,
        "Product_Name": layout.file_name.removesuffix(".he5"),
        "Processor_Name": f"L{layout.level}",
        "Processor_Version": "04.00-01-hsfuse-simulated",
        "L1_Processor_Version": "04.00-01",
        "Product_StartTime": layout.start.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "Product_StopTime": layout.stop.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "Acquisition_Station": "SIM",
        "Product_ID": f"PRS_L{layout.level}_STD",
        "Sun_zenith_angle": np.float32(layout.sun_zenith_deg),
        "Sun_azimuth_angle": np.float32(layout.sun_azimuth_deg),
        "Atm_LutGeomInfo_ViewZenith": np.float32(layout.view_zenith_deg),
        "Cloudy_pixels_percentage": np.float32(layout.cloudy_percent),
        "Sea_pixels_percentage": np.float32(layout.sea_percent),
        "Start_index_EO_VNIR": np.uint16(1),
        "Stop_index_EO_VNIR": np.uint16(VNIR_SLOTS),
        "Start_index_EO_SWIR": np.uint16(1),
        "Stop_index_EO_SWIR": np.uint16(SWIR_SLOTS),
    }
    values |= _position_attributes(layout.grid)
    scales = {"Vnir": layout.scale("VNIR"), "Swir": layout.scale("SWIR")}
    if has_pan:
        scales["Pan"] = layout.pan_scale
    for name, (low, high) in scales.items():
        if layout.level != "1":
            values[f"L2Scale{name}Min"], values[f"L2Scale{name}Max"] = np.float32(low), np.float32(high)
        values[f"ScaleFactor_{name}"], values[f"Offset_{name}"] = np.float32(L1_SCALE), np.float32(0.0)
    for name, (centre, fwhm) in slot_lists(layout).items():
        acquired = (centre > 0).astype(np.uint8)
        values[f"List_Cw_{name}"] = centre.astype(np.float32)
        values[f"List_Fwhm_{name}"] = fwhm.astype(np.float32)
        values[f"List_Cw_{name}_Flags"] = acquired.astype(np.int32)
        values[f"CNM_{name.upper()}_SELECT"] = acquired
    return values


def slot_lists(layout: PrismaLayout) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Centre and FWHM of every slot of both detectors, 0 where nothing was acquired."""
    lists = {}
    for name, slots in (("Vnir", VNIR_SLOTS), ("Swir", SWIR_SLOTS)):
        mine = np.array([detector == name.upper() for detector in layout.bands.detector])
        slot = layout.bands.slot[mine]
        if slot.size != np.unique(slot).size or np.any((slot < 0) | (slot >= slots)):
            raise UsageError(f"The {name.upper()} bands need different slots between 0 and {slots - 1}.")
        centre, fwhm = np.zeros(slots), np.zeros(slots)
        centre[slot], fwhm[slot] = layout.bands.centre_nm[mine], layout.bands.fwhm_nm[mine]
        lists[name] = (centre, fwhm)
    return lists


def _position_attributes(grid: Grid | SwathGrid) -> dict[str, Any]:
    """Corners and centre; of a map grid with the reference system and map coordinates too."""
    on_map = isinstance(grid, Grid)
    epsg = grid.crs.to_epsg()
    if on_map and (epsg is None or not (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760)):
        raise UsageError("A PRISMA L2D product lies in a WGS 84 / UTM zone (EPSG 326xx or 327xx).")
    last_row, last_col = grid.height - 1, grid.width - 1
    # ASI gives the centres of the corner pixels, not the outer corners.
    places = {
        "ULcorner": (0, 0), "URcorner": (0, last_col), "LLcorner": (last_row, 0), "LRcorner": (last_row, last_col),
        "center": (last_row / 2, last_col / 2),
    }  # fmt: skip
    values: dict[str, Any] = {}
    if on_map and epsg is not None:
        values = {
            "Epsg_Code": np.int32(epsg),
            "Projection_Name": "UTM",
            "Projection_Id": np.int32(epsg % 100),
            "Reference_Ellipsoid": "WGS84",
        }
    for name, (row, col) in places.items():
        x, y = grid.xy(row, col)
        longitude, latitude = reproject_xy(grid.crs, CRS.from_epsg(4326), x, y)
        if on_map:
            values[f"Product_{name}_easting"], values[f"Product_{name}_northing"] = float(x), float(y)
        values[f"Product_{name}_lat"] = np.float32(latitude)
        values[f"Product_{name}_long"] = np.float32(longitude)
    return values


def lonlat_block(grid: Grid | SwathGrid, row0: int, row1: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude (degrees) of the pixel centres of some rows, shape (row, col).

    Exact on a lattice of 16 pixels, linear between: at 30 m the error stays below a centimetre.
    """
    rows, row_index, row_weight = _lattice(row0, row1)
    cols, col_index, col_weight = _lattice(0, grid.width)
    x, y = grid.xy(*np.meshgrid(rows, cols, indexing="ij"))
    planes = []
    for nodes in reproject_xy(grid.crs, CRS.from_epsg(4326), x, y):
        across = nodes[:, col_index] * (1 - col_weight) + nodes[:, col_index + 1] * col_weight
        weight = row_weight[:, None]
        planes.append(across[row_index] * (1 - weight) + across[row_index + 1] * weight)
    return planes[0], planes[1]


def _lattice(start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Nodes that enclose the pixels, and for each pixel the node before it and its weight towards the next."""
    nodes = start + LATTICE_PX * np.arange((stop - start - 1) // LATTICE_PX + 2)
    position = np.arange(stop - start)
    return nodes.astype(np.float64), position // LATTICE_PX, (position % LATTICE_PX) / LATTICE_PX


def smile_matrices(layout: PrismaLayout) -> dict[str, NDArray[np.float32]]:
    """``KDP_AUX`` centre and FWHM for every detector column and slot, shape (column, slot), and lines of sight.

    Centres are the nominal ones in the middle of the detector row and ``smile_nm`` longer at both ends, as the
    simulated sensor sees them.
    """
    across = np.linspace(-1.0, 1.0, DETECTOR_COLUMNS)[:, None]
    matrices: dict[str, NDArray[np.float32]] = {}
    for name, (centre, fwhm) in slot_lists(layout).items():
        acquired = centre > 0
        shifted = np.where(acquired, centre + layout.smile_nm * across**2, 0.0)
        matrices[f"Cw_{name}_Matrix"] = shifted.astype(np.float32)
        matrices[f"Fwhm_{name}_Matrix"] = np.where(acquired, fwhm + 0.2 * across, 0.0).astype(np.float32)
    angle = np.deg2rad(layout.view_zenith_deg + 1.2 * across[:, 0])
    sight = np.stack([np.zeros_like(angle), np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    for name in ("Vnir", "Swir", "Pan"):
        matrices[f"LOS_{name}"] = sight
    return matrices


def structure_metadata(layout: PrismaLayout, *, has_pan: bool) -> bytes:
    """HDF-EOS5 structure metadata (ODL): swaths, dimensions and fields."""
    rows, cols = layout.grid.shape
    ends = ("_VNIR", "_SWIR") if layout.level == "1" else ("",)
    swaths = [
        _swath(
            1,
            f"PRS_L{layout.level}_HCO",
            {"nEastingPixel": rows, "nNorthingPixel": cols, "nVnirBands": VNIR_SLOTS, "nSwirBands": SWIR_SLOTS},
            [f"{name}{end}" for end in ends for name in ("Latitude", "Longitude")],
            {
                "VNIR_Cube": ("H5T_NATIVE_UINT16", "nVnirBands"), "SWIR_Cube": ("H5T_NATIVE_UINT16", "nSwirBands"),
                f"VNIR_{layout.error_matrix}": ("H5T_NATIVE_UINT8", "nVnirBands"),
                f"SWIR_{layout.error_matrix}": ("H5T_NATIVE_UINT8", "nSwirBands"),
            },
        )
    ]  # fmt: skip
    if has_pan:
        fine_rows, fine_cols = layout.pan_grid.shape
        fields = {"Cube": ("H5T_NATIVE_UINT16", None), "PIXEL_L2_ERR_MATRIX": ("H5T_NATIVE_UINT8", None)}
        dimensions = {"nEastingPixel": fine_rows, "nNorthingPixel": fine_cols}
        swaths.append(_swath(2, "PRS_L2D_PCO", dimensions, ["Latitude", "Longitude"], fields))
    body = "".join(swaths)
    return (
        f"GROUP=SwathStructure\n{body}END_GROUP=SwathStructure\nGROUP=GridStructure\nEND_GROUP=GridStructure\n"
        "GROUP=PointStructure\nEND_GROUP=PointStructure\nGROUP=ZaStructure\nEND_GROUP=ZaStructure\nEND\n"
    ).encode("ascii")


def _swath(
    number: int,
    name: str,
    dimensions: dict[str, int],
    geolocation: list[str],
    data: Mapping[str, tuple[str, str | None]],
) -> str:
    def entries(kind: str, items: list[dict[str, str]]) -> str:
        text = f"\t\tGROUP={kind}\n"
        for index, item in enumerate(items, start=1):
            lines = "".join(f"\t\t\t\t{key}={value}\n" for key, value in item.items())
            text += f"\t\t\tOBJECT={kind}_{index}\n{lines}\t\t\tEND_OBJECT={kind}_{index}\n"
        return text + f"\t\tEND_GROUP={kind}\n"

    def listed(*axes: str) -> str:
        return "(" + ",".join(f'"{axis}"' for axis in axes) + ")"

    def dims(band: str | None) -> str:
        return listed("nEastingPixel", *([band] if band else []), "nNorthingPixel")

    return (
        f'\tGROUP=SWATH_{number}\n\t\tSwathName="{name}"\n'
        + entries("Dimension", [{"DimensionName": f'"{k}"', "Size": str(v)} for k, v in dimensions.items()])
        + entries(
            "GeoField",
            [
                {"GeoFieldName": f'"{field}"', "DataType": "H5T_NATIVE_FLOAT", "DimList": dims(None)}
                for field in geolocation
            ],
        )
        + entries(
            "DataField",
            [{"DataFieldName": f'"{k}"', "DataType": kind, "DimList": dims(axis)} for k, (kind, axis) in data.items()],
        )
        + f"\tEND_GROUP=SWATH_{number}\n"
    )
