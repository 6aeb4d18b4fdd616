"""Opening by content: the right reader, or a sentence that helps."""

from __future__ import annotations

import shutil
import zipfile

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers.open_hsi import open_hsi
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.readers.raster.hsi import RasterHsi
from hsfuse.simulate.prisma import CubeBlock, PrismaLayout, write_prisma


@pytest.fixture(scope="module")
def prisma(tmp_path_factory):
    grid = Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 30.0, 6, 5)
    cube = np.full((234, 6, 5), 0.3, np.float32)
    folder = tmp_path_factory.mktemp("open")
    return write_prisma(folder / "p.he5", PrismaLayout(grid=grid), [CubeBlock(0, cube)])


def test_prisma_under_any_name(prisma, tmp_path):
    for name in ("scene.he5", "scene.h5", "scene.tif", "scene"):
        shutil.copyfile(prisma, tmp_path / name)
        with open_hsi(tmp_path / name, cut_nm=960) as product:
            assert isinstance(product, PrismaProduct)
            assert product.overlap_report.cut_nm == 960


def test_prisma_in_a_zip(prisma, tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(prisma, "p.he5")
    with open_hsi(str(tmp_path / "p.zip")) as product:
        assert isinstance(product, PrismaProduct)


def test_geotiff(tmp_path):
    path = tmp_path / "cube.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=2, dtype="float32", crs=CRS.from_epsg(32632),
        transform=Affine(30, 0, 0, 0, -30, 0),
    ) as file:  # fmt: skip
        file.write(np.full((2, 4, 4), 0.2, np.float32))
        for i in (1, 2):
            file.update_tags(i, wavelength=500 + 100 * i)
    with open_hsi(path) as product:
        assert isinstance(product, RasterHsi)


def test_missing(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_hsi(tmp_path / "nothing.he5")


def test_folder(tmp_path, prisma):
    with pytest.raises(InputError, match="this is a folder") as caught:
        open_hsi(prisma.parent)
    assert "p.he5" in caught.value.hint


def test_truncated_he5_is_called_by_its_name(tmp_path):
    (tmp_path / "p.he5").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="not an HDF5 file"):
        open_hsi(tmp_path / "p.he5")


def test_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "S2A.zip", "w") as archive:
        archive.writestr("S2A_MSIL2A.SAFE/MTD_MSIL2A.xml", "<xml/>")
    with pytest.raises(InputError, match="no hyperspectral product but a Sentinel-2 product") as caught:
        open_hsi(tmp_path / "S2A.zip")
    assert "second place" in caught.value.hint
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"no \.he5 file"):
        open_hsi(tmp_path / "x.zip")


def test_foreign_hdf5(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = [1]
    with pytest.raises(InputError, match="not a PRISMA product"):
        open_hsi(tmp_path / "x.h5")


def test_anything_else(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="GDAL cannot open") as caught:
        open_hsi(tmp_path / "notes.txt")
    assert "PRISMA" in caught.value.hint
