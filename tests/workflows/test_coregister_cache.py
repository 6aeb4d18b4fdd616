"""GDAL's block cache is as large as reading from top to bottom needs, and no larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from hsfuse.workflows.coregister import _cache_mb


def raster(path: Path, **layout: object) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", dtype="float32", count=4, height=32, width=8192, crs="EPSG:32632",
        transform=from_origin(500_000.0, 5_000_000.0, 10.0, 10.0), **layout,
    ) as sink:  # fmt: skip
        sink.write(np.zeros((4, 32, 8192), np.float32))
    return path


def test_rows_need_little_and_tall_tiles_more(tmp_path: Path) -> None:
    rows = raster(tmp_path / "rows.tif", blockysize=1)
    tiles = raster(tmp_path / "tiles.tif", tiled=True, blockxsize=256, blockysize=256)
    assert _cache_mb([rows, rows]) == 8
    assert _cache_mb([rows, tiles]) == 2 * 256 * 8192 * 4 * 4 >> 20


@pytest.mark.parametrize("name", ["product.SAFE", "product.he5", "product.zip"])
def test_products_get_the_most(tmp_path: Path, name: str) -> None:
    assert _cache_mb([tmp_path / name]) == 128
