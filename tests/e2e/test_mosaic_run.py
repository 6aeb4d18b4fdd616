"""Several Sentinel-2 products, also of two UTM zones, and rasters in their place, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers import open_hsi, open_msi
from hsfuse.readers.base import FloatCube
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sentinel2 import write_safe
from hsfuse.workflows.demo import read_cube

runner = CliRunner()
ZONE_33 = CRS.from_epsg(32633)
_SETTINGS = ["--method", "glp", "--quality", "plain", "--bands", "24", "--no-report", "--no-progress", "--json"]


def run(hsi: Path, msi: list[Path], output: Path, *flags: str) -> dict[str, Any]:
    done = runner.invoke(app, ["run", str(hsi), *map(str, msi), "-o", str(output), *_SETTINGS, *flags])
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def whole(safe: Path) -> tuple[Grid, FloatCube, np.ndarray]:
    product = open_msi(safe)
    try:
        classes = product.classes(product.grid.full)
        assert classes is not None
        return product.grid, product.read(product.grid.full), classes
    finally:
        product.close()


def write_part(folder: Path, grid: Grid, cube: FloatCube, classes: np.ndarray, tile_id: str) -> Path:
    return write_safe(
        folder, grid=grid, reflectance=dict(zip(BANDS_10M, cube, strict=True)), scl=classes[::2, ::2], tile_id=tile_id
    )


def cut(safe: Path, folder: Path, columns: slice, tile_id: str) -> Path:
    """A product of some columns of another one."""
    grid, cube, classes = whole(safe)
    block = Slice2D(0, grid.height, *columns.indices(grid.width)[:2])
    return write_part(folder, grid.crop(block), cube[:, :, columns], classes[:, columns], tile_id)


def test_two_products_of_one_zone_give_what_one_gives(pair: SimulatedPair, tmp_path: Path) -> None:
    west = cut(pair.sentinel2, tmp_path / "w", slice(0, 240), "T32TQQ")
    east = cut(pair.sentinel2, tmp_path / "e", slice(180, None), "T32TRQ")
    both = run(pair.prisma, [west, east], tmp_path / "two.tif")
    one = run(pair.prisma, [pair.sentinel2], tmp_path / "one.tif")
    assert both["grid"] == one["grid"]
    assert both["inputs"]["msi"]["name"].endswith("and 1 more")
    assert both["coregistration"]["verdict"] == "accepted"
    np.testing.assert_allclose(read_cube(tmp_path / "two.tif"), read_cube(tmp_path / "one.tif"), atol=2e-4)


def test_folder_of_products(pair: SimulatedPair, tmp_path: Path) -> None:
    folder = tmp_path / "s2"
    cut(pair.sentinel2, folder, slice(0, 240), "T32TQQ")
    cut(pair.sentinel2, folder, slice(180, None), "T32TRQ")
    summary = run(pair.prisma, [folder], tmp_path / "o.tif", "--coregister", "global", "--dry-run")
    assert summary["inputs"]["msi"]["name"].endswith("and 1 more")


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A PRISMA product in zone 33 over a Sentinel-2 product in zone 32."""
    folder = tmp_path_factory.mktemp("crossing")
    return simulate_pair(
        folder, size_px=(110, 110), seed=9, shift_m=(-96.0, 64.0), s2_bands="10m", pan=False, hsi_epsg=32633
    )


def test_two_zones(crossing: SimulatedPair, tmp_path: Path) -> None:
    """The west comes as it is, the east as a product in the other zone, whose pixels are turned by two degrees."""
    grid, cube, classes = whole(crossing.sentinel2)
    border = 6 * (grid.width * 3 // 5 // 6)
    west = cut(crossing.sentinel2, tmp_path / "w", slice(0, border), "T32TQQ")
    eastern = grid.crop(Slice2D(0, grid.height, border - 60, grid.width))
    bounds = eastern.bounds_in(ZONE_33).buffer(-100.0)
    left, top = 60.0 * (bounds.left // 60), 60.0 * (bounds.top // 60)
    height, width = (6 * int(size // 60) for size in (bounds.top - bounds.bottom, bounds.right - bounds.left))
    other = Grid.from_origin(ZONE_33, left, top, 10.0, height, width)
    moved = np.full((4, *other.shape), np.nan, np.float32)
    codes = np.zeros(other.shape, np.uint8)
    place = {"src_crs": grid.crs, "src_transform": grid.transform, "dst_crs": ZONE_33, "dst_transform": other.transform}
    reproject(cube, moved, resampling=Resampling.cubic, src_nodata=np.nan, dst_nodata=np.nan, **place)
    reproject(classes, codes, resampling=Resampling.nearest, **place)
    east = write_part(tmp_path / "e", other, moved, codes, "T33TUK")

    summary = run(crossing.prisma, [west, east], tmp_path / "o.tif")
    assert summary["coregistration"]["verdict"] == "accepted"
    truth = Truth.load(crossing.truth)
    assert CRS.from_user_input(summary["grid"]["crs"]) == truth.grid.crs
    with open_hsi(tmp_path / "o.tif") as product:
        block = product.grid.block_in(truth.grid)
        reference = truth.reflectance(product.bands, block)
    estimate = read_cube(tmp_path / "o.tif")
    valid = np.all(np.isfinite(estimate), axis=0)
    error = np.sqrt(np.mean((estimate - reference) ** 2, axis=0))
    spread = float(reference[:, valid].std(axis=1).mean())
    inner = border - grid.block_of(product.grid.bounds).col0
    for part in (slice(0, inner - 60), slice(inner, None)):
        assert valid[:, part].sum() > 5000, "both products contribute"
        assert np.sqrt(np.mean(error[:, part][valid[:, part]] ** 2)) < 0.3 * spread


def test_all_bands_of_a_raster_are_used_anyway(pair: SimulatedPair, tmp_path: Path) -> None:
    """A setting without effect says so; so does a PSF that could not be estimated."""
    grid, cube, _ = whole(pair.sentinel2)
    path = tmp_path / "msi.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=4, height=grid.height, width=grid.width, crs=grid.crs,
        transform=grid.transform, nodata=0,
    ) as sink:  # fmt: skip
        sink.write(np.clip(np.rint(np.nan_to_num(cube) * 1e4), 0, 65535).astype(np.uint16))
    settings: dict[str, Any] = {"method": "bicubic", "bands": "12", "report": False, "coregister": "global"}
    loud = hsfuse.fuse_scene(pair.prisma, path, tmp_path / "o.tif", s2_bands="all", **settings)
    assert any("--s2-bands all has no effect" in text for text in loud.summary["warnings"])
    quiet = hsfuse.fuse_scene(pair.prisma, path, tmp_path / "q.tif", **settings)
    assert not any("s2-bands" in text for text in quiet.summary["warnings"])


def test_a_psf_that_cannot_be_estimated_is_called_assumed(pair: SimulatedPair, tmp_path: Path) -> None:
    swir = tmp_path / "bands.txt"
    swir.write_text("\n".join(str(nm) for nm in range(1000, 1250, 20)))
    settings: dict[str, Any] = {"method": "bicubic", "coregister": "global"}
    blind = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "o.tif", bands=str(swir), **settings)
    assert not blind.summary["psf_estimated"]
    assert blind.summary["psf_source"].startswith("assumed, because no selected band")
    assert "assumed, because" in (tmp_path / "o.report.html").read_text(encoding="utf-8")
    seen = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "s.tif", bands="24", report=False, **settings)
    assert seen.summary["psf_source"] == "estimated from the pair"
    told = hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path / "t.tif", bands="24", report=False, psf_fwhm=1.5, **settings
    )
    assert (told.summary["psf_source"], told.summary["psf_fwhm_px"]) == ("given", 1.5)


def test_methods_find_blur_and_shift_unless_they_are_given(pair: SimulatedPair, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "glp", "quality": "plain", "coregister": "global", "bands": "24"}
    free = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "free.tif", **settings)
    found = free.summary["method"]["calibration"]
    assert found["psf_fwhm_px"] == pytest.approx(free.summary["psf_fwhm_px"], abs=0.15)
    assert max(map(abs, found["offset_px"])) < 0.2
    assert "Blur and shift found by the method" in (tmp_path / "free.report.html").read_text(encoding="utf-8")
    told = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "told.tif", report=False, psf_fwhm=1.5, **settings)
    assert told.summary["method"]["calibration"] is None
    off = hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path / "off.tif", report=False, **settings | {"coregister": "off"}
    )
    assert off.summary["method"]["calibration"] is None
