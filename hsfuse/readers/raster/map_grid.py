"""The map grid of a GDAL raster: north-up, square pixels, metres; anything else is refused with the way out."""

from __future__ import annotations

from pathlib import Path

import rasterio
from rasterio.warp import transform_bounds

from hsfuse.errors import InputError
from hsfuse.grid import Grid, utm_crs


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
    if crs.is_geographic:
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *dataset.bounds)
        zone = utm_crs((west + east) / 2, (south + north) / 2)
        raise InputError(
            f"{path}: the image is in degrees; pixel sizes in metres are needed.",
            hint=f"Warp it to UTM first: gdalwarp -t_srs {zone.to_string()} -r cubic IN OUT",
        )
    if not crs.is_projected or abs(crs.linear_units_factor[1] - 1.0) > 1e-9:
        raise InputError(
            f"{path}: the reference system is not projected in metres.", hint="Warp it to a UTM zone with gdalwarp."
        )
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise InputError(f"{path}: the image is rotated or not north-up.", hint="Warp it with gdalwarp first.")
    if abs(transform.a + transform.e) > 1e-4 * transform.a:
        raise InputError(
            f"{path}: the pixels are not square ({transform.a:g} x {-transform.e:g} m).",
            hint="Warp it with gdalwarp -tr to square pixels first.",
        )
    return Grid(crs, transform, dataset.height, dataset.width)
