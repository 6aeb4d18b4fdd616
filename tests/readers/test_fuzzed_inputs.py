"""Damage of every kind ends as an error of the input: a sample of many thousand mutations, always the same ones."""

from __future__ import annotations

import random
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import package_samples
import pytest
import rasterio
import test_emit_reader
from rasterio.crs import CRS
from safe_samples import make_safe, zip_product

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid
from hsfuse.process import undecodable_messages_to_log
from hsfuse.readers import open_product
from hsfuse.simulate.prisma import CubeBlock, PrismaLayout, write_prisma
from hsfuse.testing.damage import DAMAGES

TRIES = 25


@pytest.fixture(autouse=True)
def _as_in_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged name in one of GDAL's messages is no UTF-8: such messages are passed on, see hsfuse.process."""
    monkeypatch.setattr(sys, "unraisablehook", undecodable_messages_to_log(sys.unraisablehook))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    product = make_safe(folder)
    zip_product(product, folder / "deflated.zip", zipfile.ZIP_DEFLATED)
    zip_product(product, folder / "stored.zip", zipfile.ZIP_STORED)
    grid = Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 30.0, 6, 5)
    write_prisma(folder / "p.he5", PrismaLayout(grid=grid), [CubeBlock(0, np.full((234, 6, 5), 0.3, np.float32))])
    cube = np.random.default_rng(0).integers(500, 4000, (8, 20, 20)).astype(np.int16)
    for name, driver in (("c.tif", "GTiff"), ("e.img", "ENVI")):
        with rasterio.open(
            folder / name, "w", driver=driver, height=20, width=20, count=8, dtype="int16", crs="EPSG:32633",
            transform=rasterio.Affine(30, 0, 5e5, 0, -30, 5e6), nodata=-9999,
        ) as out:  # fmt: skip
            out.write(cube)
            for band in range(8):
                out.update_tags(band + 1, wavelength=500 + 20 * band, wavelength_units="nm", fwhm=10)
    coarse = Grid.from_origin(CRS.from_epsg(32633), 5e5, 5e6, 30.0, 12, 14)
    dn = np.random.default_rng(1).integers(100, 4000, (24, 12, 14)).astype(np.int16)
    layers = {"QL_QUALITY_CLOUD": np.zeros((1, 12, 14), np.uint8), "QL_QUALITY-2": np.zeros((10, 12, 14), np.uint8)}
    package_samples.make_enmap(folder / "enmap", dn, coarse, layers=layers)
    package_samples.make_desis(folder / "desis", dn, coarse, layers=layers)
    package_samples.pack(folder / "enmap", folder / "enmap.zip", zipfile.ZIP_DEFLATED)
    test_emit_reader.write(folder / "EMIT_L2A_RFL_x.nc", size=(24, 20))
    listed = ", ".join(str(500 + 20 * band) for band in range(8))
    with (folder / "e.hdr").open("a") as header:
        header.write(f"wavelength units = nm\nwavelength = {{{listed}}}\nreflectance scale factor = 10000\n")
    return folder


def _open_and_read(path: Path) -> None:
    try:
        with open_product(path) as product:
            product.read(product.grid.full)
    except (InputError, OverlapError) as error:
        assert error.hint  # noqa: PT017 - most inputs are refused, some survive


@pytest.mark.parametrize("how", ["flip", "cut", "hole", "insert"])
@pytest.mark.parametrize(
    "name", ["c.tif", "e.img", "p.he5", "deflated.zip", "stored.zip", "enmap.zip", "EMIT_L2A_RFL_x.nc"]
)
def test_damaged_files(samples: Path, tmp_path: Path, name: str, how: str) -> None:
    rng = random.Random(f"{name} {how}")
    raw = (samples / name).read_bytes()
    if name == "e.img":
        shutil.copyfile(samples / "e.hdr", tmp_path / "e.hdr")
    for _ in range(TRIES):
        (tmp_path / name).write_bytes(DAMAGES[how](raw, rng))
        _open_and_read(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "e.hdr", "MTD_MSIL2A.xml", "MTD_TL.xml", "manifest.safe", "_B03_10m.jp2", "enmap/-METADATA.XML",
        "enmap/-SPECTRAL_IMAGE.TIF", "enmap/-QL_QUALITY_CLOUD.TIF", "desis/-METADATA.xml", "desis/-SPECTRAL_IMAGE.tif",
    ],
)  # fmt: skip
def test_damaged_parts(samples: Path, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    if name == "e.hdr":
        shutil.copyfile(samples / "e.img", tmp_path / "e.img")
        target = given = tmp_path / name
        raw = (samples / name).read_bytes()
    else:
        folder, _, name = name.rpartition("/")
        product = samples / folder if folder else next(samples.glob("*.SAFE"))
        given = Path(shutil.copytree(product, tmp_path / product.name))
        target = next(path for path in given.rglob("*") if path.name.endswith(name))
        raw = target.read_bytes()
    for _ in range(TRIES):
        is_image = name.lower().endswith((".jp2", ".tif"))
        how = rng.choice(["flip", "cut", "hole", "insert"]) if is_image or rng.random() < 0.3 else "words"
        target.write_bytes(DAMAGES[how](raw, rng))
        _open_and_read(given)


def test_the_samples_themselves_are_read(samples: Path) -> None:
    for name in ("c.tif", "e.img", "p.he5", "deflated.zip", "stored.zip", "enmap", "enmap.zip", "desis"):
        with open_product(samples / name) as product:
            assert np.isfinite(product.read(product.grid.full)).any()
    assert h5py.is_hdf5(samples / "p.he5")
