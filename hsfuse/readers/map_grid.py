"""The map grid of a GDAL raster: north-up, square pixels, metres; anything else is refused with the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Bounds, Grid, reproject_bounds, utm_crs

_METRES_PER_DEGREE = 111_195.0


def read_grid(dataset: rasterio.io.DatasetReader, path: Path) -> Grid:
    """Return the map grid of a dataset.

    Raises
    ------
    InputError
        It has none, or one that is not north-up with square pixels in metres.
    """
    crs, transform = dataset.crs, dataset.transform
    if crs is None or transform.is_identity:
        raise InputError(
            f"{path}: the image has no map position (reference system and geotransform).",
            hint="Georeference it first, for example with gdal_translate -a_srs and -a_ullr.",
        )
    try:
        place = reproject_bounds(crs, CRS.from_epsg(4326), Bounds(*dataset.bounds))
    except OverlapError as error:
        raise InputError(
            f"{path}: the reference system of the image cannot be related to longitude and latitude.",
            hint="Assign the right one, for example with gdal_edit -a_srs EPSG:32632.",
        ) from error
    if crs.is_geographic:
        raise InputError(
            f"{path}: the image is in degrees; pixel sizes in metres are needed.",
            hint=f"Warp it to UTM first: {_warp_command(dataset, place)}",
        )
    if not crs.is_projected or abs(crs.linear_units_factor[1] - 1.0) > 1e-9:
        raise InputError(
            f"{path}: the reference system is not projected in metres.",
            hint=f"Warp it to a UTM zone first: {_warp_command(dataset, place)}",
        )
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise InputError(
            f"{path}: the image is rotated or not north-up.", hint=f"Warp it first: {_warp_command(dataset, place)}"
        )
    if abs(transform.a + transform.e) > 1e-4 * transform.a:
        raise InputError(
            f"{path}: the pixels are not square ({transform.a:g} x {-transform.e:g} m).",
            hint=f"Warp it to square pixels first: {_warp_command(dataset, place)}",
        )
    return Grid(crs, transform, dataset.height, dataset.width)


def _warp_command(dataset: rasterio.io.DatasetReader, place: Bounds) -> str:
    """Return the command that puts an image on a grid that is not refused."""
    crs, transform = dataset.crs, dataset.transform
    latitude = (place.bottom + place.top) / 2
    zone = crs
    across, down = np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)
    if crs.is_geographic:
        across, down = across * _METRES_PER_DEGREE * np.cos(np.deg2rad(latitude)), down * _METRES_PER_DEGREE
    elif crs.is_projected:
        across, down = (side * crs.linear_units_factor[1] for side in (across, down))
    if crs.is_geographic or not crs.is_projected or crs.linear_units_factor[1] != 1.0:
        zone = utm_crs((place.left + place.right) / 2, latitude)
    size = _round_size(float(np.sqrt(across * down)))
    return f"gdalwarp -t_srs {zone.to_string()} -tr {size:g} {size:g} -r cubic IN OUT"


def _round_size(metres: float) -> float:
    """Return the pixel size that was probably meant: whole tens of metres, or two digits below ten metres."""
    if metres >= 10:
        return 10.0 * round(metres / 10)
    return float(f"{metres:.2g}")
