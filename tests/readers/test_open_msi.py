"""One entry for any multispectral input."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from safe_samples import GRID, ZONE_32, make_safe, reflectance, zip_product

from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.open_msi import open_msi
from hsfuse.readers.raster.msi import RasterMsi
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.product import Sentinel2Product

UNDER = Grid.from_origin(ZONE_32, 600_030, 5_000_010, 30, 20, 20)
AWAY = Grid.from_origin(ZONE_32, 300_000, 4_000_000, 30, 20, 20)
EAST = GRID.crop(Slice2D(0, 96, 132, 264))


def _raster(path: Path, grid: Grid = GRID) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=4, dtype="float32",
        crs=grid.crs, transform=grid.transform,
    ) as out:  # fmt: skip
        out.write(np.full((4, *grid.shape), 0.2, np.float32))
    return path


def test_every_way_to_name_one_product(tmp_path: Path) -> None:
    product = make_safe(tmp_path / "download")
    packed = zip_product(product, tmp_path / "packed.zip", zipfile.ZIP_STORED)
    names = [
        product,
        str(product),
        product / "MTD_MSIL2A.xml",
        product / "manifest.safe",
        packed,
        [packed],
        product.parent,
    ]
    for name in names:
        opened = open_msi(name, target=UNDER)
        assert isinstance(opened, Sentinel2Product)
        assert opened.info.name == product.name
        assert opened.grid == GRID
        opened.close()


def test_a_folder_of_products_becomes_a_mosaic(tmp_path: Path) -> None:
    first = make_safe(tmp_path)
    second = make_safe(tmp_path, grid=EAST, spacecraft="Sentinel-2B")
    packed = zip_product(first, tmp_path / f"{first.stem}.zip", zipfile.ZIP_STORED)
    mosaic = open_msi(tmp_path)
    assert isinstance(mosaic, Sentinel2Mosaic)
    assert mosaic.grid == GRID.crop(Slice2D(0, 96, 0, 264))
    assert len(mosaic.info.attributes["tiles"]) == 2, f"{packed.name} is the same product again"
    mosaic.close()
    # Under one tile only, there is nothing to mosaic.
    opened = open_msi([first, second], target=UNDER)
    assert isinstance(opened, Sentinel2Product)
    assert opened.info.name == first.name
    opened.close()


def test_a_footprint_in_another_zone_finds_its_tile(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    target = Grid(CRS.from_epsg(4326), rasterio.Affine(1e-4, 0, 10.27, 0, -1e-4, 45.15), 200, 200)
    opened = open_msi(product, target=target)
    assert opened.grid == GRID
    opened.close()


def test_old_products_with_several_tiles_become_a_mosaic(tmp_path: Path) -> None:
    west = make_safe(tmp_path / "w", naming="old", level="L1C", baseline="02.02", reflectance=reflectance(seed=1))
    east = make_safe(
        tmp_path / "e", naming="old", level="L1C", baseline="02.02", grid=EAST, tile_id="T32TQQ",
        reflectance=reflectance(EAST, seed=2),
    )  # fmt: skip
    granule = next((east / "GRANULE").iterdir())
    shutil.copytree(granule, west / "GRANULE" / granule.name)
    entries = [
        re.search(r"<Granules.*?</Granules>", next(p.glob("*.xml")).read_text(encoding="utf-8"), re.S)[0]
        for p in (west, east)
    ]
    xml = next(west.glob("*.xml"))
    xml.write_text(xml.read_text(encoding="utf-8").replace(entries[0], "".join(entries)), encoding="utf-8")
    with pytest.raises(InputError, match="holds 2 tiles") as caught:
        Sentinel2Product(west)
    assert "open_msi" in caught.value.hint
    mosaic = open_msi(west)
    assert mosaic.grid == GRID.crop(Slice2D(0, 96, 0, 264))
    cube = mosaic.read(mosaic.grid.full)
    mosaic.close()
    truth = np.concatenate([reflectance(seed=1)["B04"], reflectance(EAST, seed=2)["B04"]], axis=1)
    np.testing.assert_allclose(cube[2][truth > 0], truth[truth > 0], atol=2e-7)
    with Sentinel2Product(west, granule="T32TQQ") as one:
        assert one.grid == EAST


def test_rasters_are_handed_to_their_reader(tmp_path: Path) -> None:
    path = _raster(tmp_path / "drone.tif")
    opened = open_msi([path], target=UNDER)
    assert isinstance(opened, RasterMsi)
    opened.close()
    with pytest.raises(OverlapError, match=r"drone\.tif does not overlap"):
        open_msi(path, target=AWAY)


def test_things_that_do_not_go_together(tmp_path: Path) -> None:
    product, path = make_safe(tmp_path), _raster(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif cannot be combined"):
        open_msi([product, path])
    with pytest.raises(InputError, match="cannot be combined"):
        open_msi([path, _raster(tmp_path / "b.tif")])
    with pytest.raises(UsageError, match="No multispectral image"):
        open_msi([])


def test_no_overlap(tmp_path: Path) -> None:
    first, second = make_safe(tmp_path), make_safe(tmp_path, grid=EAST, spacecraft="Sentinel-2B")
    with pytest.raises(OverlapError, match="does not overlap the hyperspectral image") as caught:
        open_msi(first, target=AWAY)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    with pytest.raises(OverlapError, match="do not overlap"):
        open_msi([first, second], target=AWAY)


def test_inputs_that_are_no_product(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_msi(tmp_path / "nothing.SAFE")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no Sentinel-2 product"):
        open_msi(tmp_path / "empty")
    product = make_safe(tmp_path / "p")
    band = next(product.rglob("*_B02_10m.jp2"))
    with pytest.raises(InputError, match="a single band of a Sentinel-2 product") as caught:
        open_msi(band)
    assert ".SAFE" in caught.value.hint
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="not a Sentinel-2 product"):
        open_msi(other)
    text = tmp_path / "notes.txt"
    text.write_text("not an image", encoding="utf-8")
    with pytest.raises(InputError):
        open_msi(text)
    xml = tmp_path / "lonely.xml"
    xml.write_text("<a/>", encoding="utf-8")
    with pytest.raises(InputError, match="not a Sentinel-2 product"):
        open_msi(xml)
