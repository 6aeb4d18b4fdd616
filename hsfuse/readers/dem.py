"""Heights of the ground from a raster (DEM), at the pixels of a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid

_LEAST_KNOWN = 0.5


def read_heights(path: Path, grid: Grid) -> NDArray[np.float32]:
    """Heights in metres at the pixel centres of a grid, shape (row, col), NaN where unknown.

    Parameters
    ----------
    path
        Raster of heights in metres, in any reference system and of any pixel size.
    grid
        Where they are wanted.

    Raises
    ------
    InputError
        The file cannot be read or has no reference system.
    OverlapError
        It covers less than half of the grid.
    """
    out = np.full(grid.shape, np.nan, dtype=np.float32)
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise InputError(f"{path}: the DEM has no reference system.", hint="Give it one (gdal_edit -a_srs).")
            reproject(
                rasterio.band(source, 1), out, dst_transform=grid.transform, dst_crs=grid.crs,
                resampling=Resampling.bilinear, src_nodata=source.nodata, dst_nodata=np.nan,
            )  # fmt: skip
    except RasterioError as error:
        raise InputError(f"{path} cannot be read as a DEM: {error}.", hint="Give a raster of heights.") from error
    known = float(np.isfinite(out).mean())
    if known < _LEAST_KNOWN:
        raise OverlapError(
            f"The DEM {path} covers {known:.0%} of the image.", hint="Give a DEM that covers the whole scene."
        )
    return out
