"""Cubes that are rotated, south-up, in degrees, not square or in feet end where the truth is, resampled once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.config import RunConfig
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.readers.raster.hsi import RasterHsi
from hsfuse.readers.raster.msi import RasterMsi
from hsfuse.workflows.run import run_scene
from hsfuse.workflows.steps.inputs import pixel_ratio
from hsfuse.workflows.steps.resampled_guide import ResampledGuide

UTM = CRS.from_epsg(32633)
MIDDLE = 500_900.0, 5_800_900.0
SIDE = 60
NM = np.linspace(440.0, 900.0, 9)
CELLS = Grid.from_origin(UTM, MIDDLE[0] - 600, MIDDLE[1] + 600, 30.0, 40, 40)
"""Cells of a guide under the middle of every image."""


def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Reflectance without detail finer than some pixels, shape (band, *x.shape)."""
    base = 0.3 + 0.1 * np.sin(x / 55) + 0.08 * np.cos(y / 47) + 0.05 * np.sin((x + 2 * y) / 90)
    return base * (0.6 + NM / 1500).reshape(-1, *(1,) * x.ndim)


def around(crs: CRS, a: float, b: float, d: float, e: float) -> Affine:
    """Transform whose image has its middle at a place."""
    x, y = Transformer.from_crs(UTM, crs, always_xy=True).transform(*MIDDLE)
    return Affine(a, b, x - SIDE / 2 * (a + b), d, e, y - SIDE / 2 * (d + e))


def turned(angle: float, size: float) -> tuple[float, float, float, float]:
    c, s = size * np.cos(np.deg2rad(angle)), size * np.sin(np.deg2rad(angle))
    return float(c), float(s), float(s), float(-c)


CASES: dict[str, tuple[CRS, tuple[float, float, float, float]]] = {
    "rotated": (UTM, turned(27.0, 30.0)),
    "a quarter turn": (UTM, (0.0, 30.0, 30.0, 0.0)),
    "south-up": (UTM, (30.0, 0.0, 0.0, 30.0)),
    "degrees": (CRS.from_epsg(4326), (4.4e-4, 0.0, 0.0, -2.7e-4)),
    "not square": (UTM, (30.0, 0.0, 0.0, -24.0)),
    "feet": (CRS.from_string("+proj=utm +zone=33 +units=us-ft +datum=WGS84"), (98.4, 0.0, 0.0, -98.4)),
    "another zone": (CRS.from_epsg(32632), (30.0, 0.0, 0.0, -30.0)),
}


def write(path: Path, crs: CRS, transform: Affine, side: int = SIDE, nodata: int | None = -9999) -> Path:
    row, col = np.mgrid[0:side, 0:side] + 0.5
    x, y = (transform.c + transform.a * col + transform.b * row, transform.f + transform.d * col + transform.e * row)
    cube = np.rint(ground(*Transformer.from_crs(crs, UTM, always_xy=True).transform(x, y)) * 1e4).astype(np.int16)
    cube[:, :2, :3] = -9999
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=NM.size, dtype="int16", crs=crs, transform=transform,
        nodata=nodata,
    ) as out:  # fmt: skip
        out.write(cube)
        for band, nm in enumerate(NM, start=1):
            out.update_tags(band, wavelength=nm, wavelength_units="nm", fwhm=50)
    return path


def guide(path: Path, pixel_m: float = 10.0) -> Path:
    side = round(2400 / pixel_m)
    grid = Grid.from_origin(UTM, MIDDLE[0] - 1200, MIDDLE[1] + 1200, pixel_m, side, side)
    row, col = (axis.astype(float) for axis in np.indices(grid.shape))
    bands = [0, 2, 4, 8]
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=4, dtype="float32", crs=UTM, transform=grid.transform
    ) as out:
        out.write(ground(*grid.xy(row, col))[bands].astype(np.float32))
        for band, index in enumerate(bands, start=1):
            out.update_tags(band, wavelength=NM[index], wavelength_units="nm", fwhm=50)
    return path


def slip_m(got: np.ndarray, want: np.ndarray, pixel_m: float) -> float:
    """Shift that explains the difference best."""
    dy, dx = np.gradient(want, pixel_m)
    known = np.isfinite(got)
    design = np.stack([dx[known], -dy[known]], axis=1)
    return float(np.hypot(*np.linalg.lstsq(design, (got - want)[known], rcond=None)[0]))


@pytest.mark.parametrize("case", CASES)
def test_stored_pixels_are_resampled_once_to_the_cells_of_a_guide(tmp_path: Path, case: str) -> None:
    crs, steps = CASES[case]
    with RasterHsi(write(tmp_path / "c.tif", crs, around(crs, *steps))) as product:
        grid = product.grid
        assert grid.crs.is_projected
        assert grid.pixel_m == pytest.approx(30.0, rel=0.002)
        stored = product.stored_pixels
        resampler = Resampler(stored.grid, CELLS)
        source = resampler.source_block(CELLS.full)
        got = resampler.apply(stored.read(source), source, CELLS.full)
        want = ground(*CELLS.xy(*(axis.astype(float) for axis in np.indices(CELLS.shape))))
        assert np.isfinite(got).all()
        assert np.abs(got - want).max() < 0.012
        assert slip_m(got[4], want[4], 30.0) < 0.5
        # What is looked at on the way lies there too.
        seen = product.read(grid.full, [4])[0]
        x, y = grid.xy(*(axis.astype(float) for axis in np.indices(grid.shape)))
        truth = ground(*Transformer.from_crs(grid.crs, UTM, always_xy=True).transform(x, y))[4]
        assert slip_m(seen, truth, grid.pixel_m) < 0.5
        assert np.array_equal(np.isfinite(seen), product.valid(grid.full))
        area = abs(around(UTM, *turned(0, 30)).determinant) * SIDE**2 if case != "not square" else 720 * SIDE**2
        assert np.isfinite(seen).sum() * grid.pixel_m**2 == pytest.approx(area, rel=0.04)
        block = Slice2D(11, 37, 9, 41)
        np.testing.assert_allclose(product.read(block, [4])[0], seen[block.slices], atol=1e-5)
        assert any("warped" in text for text in product.info.warnings) is (case != "another zone")


def test_longitudes_beyond_the_180th_meridian(tmp_path: Path) -> None:
    transform = Affine(3e-4, 0, 179.995, 0, -3e-4, -17.0)
    with rasterio.open(
        tmp_path / "c.tif", "w", driver="GTiff", height=40, width=40, count=9, dtype="int16", crs="EPSG:4326",
        transform=transform,
    ) as out:  # fmt: skip
        out.write(np.full((9, 40, 40), 1234, np.int16))
        for band, nm in enumerate(NM, start=1):
            out.update_tags(band, wavelength=nm, wavelength_units="nm")
    with RasterHsi(tmp_path / "c.tif") as product:
        assert product.grid.crs in (CRS.from_epsg(32760), CRS.from_epsg(32701))
        assert max(product.grid.shape) < 50
        assert np.isfinite(product.read(product.grid.full, [0])).mean() > 0.9


@pytest.mark.parametrize(
    ("case", "guide_m", "ratio", "pixel_m"),
    [("degrees", 10.0, 3, 10.0), ("rotated", 10.0, 3, 10.0), ("CHRIS", 10.0, 4, 9.0), ("fine guide", 11.3, 3, 10.0)],
)
def test_a_run_ends_where_the_truth_is(tmp_path: Path, case: str, guide_m: float, ratio: int, pixel_m: float) -> None:
    crs, steps = CASES.get(case, (UTM, turned(0.0, 36.0 if case == "CHRIS" else 30.0)))
    hsi, msi = write(tmp_path / "c.tif", crs, around(crs, *steps)), guide(tmp_path / "m.tif", guide_m)
    config = RunConfig(
        method="gsa", quality="plain", coregister="off", report=False, bands="all", psf_fwhm=0.8, dtype="float32"
    )
    result = run_scene(hsi, [msi], tmp_path / "o.tif", config)
    assert (result.summary["grid"]["ratio"], result.summary["grid"]["pixel_m"]) == (ratio, pytest.approx(pixel_m))
    said = result.summary["guide_resampled"]
    if guide_m == pixel_m:
        assert said is None
    else:
        assert said == {
            "native_m": guide_m,
            "pixel_m": pytest.approx(pixel_m),
            "native_ratio": pytest.approx(36 / 10 if case == "CHRIS" else 30 / 11.3),
        }
        assert any("the guide was resampled from" in text for text in result.summary["warnings"])
    with rasterio.open(tmp_path / "o.tif") as cube:
        got = cube.read(5).astype(float)
        grid = Grid(cube.crs, cube.transform, *cube.shape)
    got = np.where(got < -1, np.nan, got)
    want = ground(*grid.xy(*(axis.astype(float) for axis in np.indices(grid.shape))))[4]
    assert np.isfinite(got).mean() > 0.5
    assert slip_m(got, want, pixel_m) < 0.1 * pixel_m
    assert np.sqrt(np.nanmean((got - want) ** 2)) < 0.01


def test_a_resampled_guide_is_the_same_for_every_choice_of_windows(tmp_path: Path) -> None:
    class Masked(RasterMsi):
        def cloud(self, block: Slice2D) -> Any:
            return np.add.outer(np.arange(block.row0, block.row1), np.arange(block.col0, block.col1)) < 60

        def classes(self, block: Slice2D) -> Any:
            return self.cloud(block).astype(np.uint8)

    with ResampledGuide(Masked(guide(tmp_path / "m.tif")), 9.0) as product:
        whole, block = product.grid.full, Slice2D(20, 90, 33, 71)
        assert product.grid.pixel_m == 9.0
        np.testing.assert_allclose(product.read(block, [1]), product.read(whole, [1])[:, *block.slices], atol=1e-6)
        cloud = product.cloud(whole)
        assert np.array_equal(product.cloud(block), cloud[block.slices])
        assert np.array_equal(product.classes(whole) == 1, cloud)
        rows, cols = np.indices(cloud.shape)
        # The edge of the mask lies where it lay.
        assert np.array_equal(cloud, ((rows + 0.5) * 0.9).astype(int) + ((cols + 0.5) * 0.9).astype(int) < 60)


def test_a_resampled_guide_answers_for_its_product() -> None:
    # What has a default must not fall back to it; numbers as they are stored are those of no single file any more.
    offered = {name for name in vars(MultispectralProduct) if not name.startswith("_")}
    answers = {name for kind in (ResampledGuide, MultispectralDecorator) for name in vars(kind)}
    assert offered - answers <= {"stored"}


@pytest.mark.parametrize(
    ("coarse", "fine", "wanted", "expected"),
    [
        (30.0, 10.0, None, (3, True)),
        (60.0, 10.0, None, (6, True)),
        (36.0, 10.0, None, (4, False)),
        (5.3, 2.0, None, (3, False)),
        (15.0, 10.0, None, (2, False)),
        (36.0, 10.0, 3, (3, False)),
        (200.0, 10.0, None, (20, True)),
        (29.9, 10.0, None, (3, True)),
        (14.0, 10.0, None, "1.4; fusion takes 1.5 to 20"),
        (300.0, 10.0, None, "30; fusion takes"),
        (30.0, 10.0, 5, "--ratio 5 was asked for"),
    ],
)
def test_ratios(coarse: float, fine: float, wanted: int | None, expected: Any) -> None:
    grids = [Grid.from_origin(UTM, 0.0, 0.0, size, 10, 10) for size in (coarse, fine)]
    if isinstance(expected, tuple):
        assert pixel_ratio(*grids, wanted) == expected
        return
    with pytest.raises(UsageError, match=expected) as caught:
        pixel_ratio(*grids, wanted)
    assert caught.value.hint


def test_a_rotated_image_is_read_in_small_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long strip of cells across a rotated image would otherwise need nearly all of it at a time."""
    crs, steps = UTM, turned(40.0, 10.0)
    side = 240
    transform = Affine(steps[0], steps[1], MIDDLE[0] - side / 2 * (steps[0] + steps[1]),
                       steps[2], steps[3], MIDDLE[1] - side / 2 * (steps[2] + steps[3]))  # fmt: skip
    cells = Grid.from_origin(UTM, MIDDLE[0] - 1500, MIDDLE[1] + 1500, 10.0, 300, 300)
    with RasterHsi(write(tmp_path / "c.tif", crs, transform, side)) as product, RasterMsi(
        guide(tmp_path / "m.tif")
    ) as msi:  # fmt: skip
        every = np.arange(len(product.bands))
        scene = FusionScene(product, msi, every, Resampler(product.stored_pixels.grid, cells), cells, 1, Psf(1.0))
        strip = Slice2D(120, 140, 0, 300)
        whole = scene.read_hsi(strip)
        areas = []
        stored = product.stored_pixels
        read = type(stored).read

        def counted(self: Any, block: Slice2D, bands: Any = None) -> Any:
            areas.append(block.shape[0] * block.shape[1])
            return read(self, block, bands)

        monkeypatch.setattr(type(stored), "read", counted)
        monkeypatch.setattr("hsfuse.inference.scene._WINDOW_BYTES", 1000)
        np.testing.assert_allclose(scene.read_hsi(strip), whole, atol=1e-6, equal_nan=True)
        assert len(areas) > 3
        assert max(areas) < 0.12 * side**2
        assert sum(areas) < 0.6 * side**2
