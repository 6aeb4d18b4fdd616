"""GDAL's settings while GeoTIFF files are written."""

from __future__ import annotations

import rasterio
from rasterio._env import get_gdal_config

from hsfuse.process import bounded_block_cache
from hsfuse.writers.geotiff.tiff import gdal_options


def test_the_block_cache_is_bounded_in_megabytes_not_bytes() -> None:
    with rasterio.Env(**gdal_options()):
        assert 2**24 <= get_gdal_config("GDAL_CACHEMAX") <= 2**28
    with bounded_block_cache():
        assert 2**24 <= get_gdal_config("GDAL_CACHEMAX") <= 2**28
