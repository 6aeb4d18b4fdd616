"""One landscape seen by every sensor that is read: each product, misplaced, ends as a 10 m cube where the truth is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import package_samples as samples
import pytest
import rasterio
import scipy.ndimage
import test_prisma_swath as swath
from rasterio.crs import CRS

from hsfuse.config import RunConfig
from hsfuse.grid import Grid
from hsfuse.workflows.run import run_scene

FINE = Grid.from_origin(CRS.from_epsg(32632), 560_000.0, 5_950_000.0, 10.0, 720, 720)
MISPLACED_M = 47.0, -31.0
"""How far east and north the products claim to lie of where they are."""
MSI_NM = (492.7, 559.8, 664.6, 832.8)
CHECK_NM = 665.0


def _landscape() -> np.ndarray:
    """Brightness of three materials, shape (material, row, col): fields, each with texture."""
    rng = np.random.default_rng(11)
    rows, cols = FINE.shape
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols))
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((rows, cols))) / frequency, s=(rows, cols))
        planes.append(0.25 + 0.05 * noise / noise.std())
    return np.stack(planes)


PLANES = _landscape()


def mixture(nm: np.ndarray) -> np.ndarray:
    """Share of each material in a band, shape (material, band)."""
    weights = np.stack([np.exp(-0.5 * ((np.asarray(nm) - middle) / 400) ** 2) for middle in (450, 800, 1600)])
    return np.asarray(weights / weights.sum(axis=0))


def seen(x: np.ndarray, y: np.ndarray, nm: np.ndarray, pixel_m: float) -> np.ndarray:
    """Reflectance at the true positions through a pixel of some size, shape (*x.shape, band)."""
    side = round(pixel_m / 10)
    row, col = FINE.rowcol(x, y)
    values = [
        scipy.ndimage.map_coordinates(scipy.ndimage.uniform_filter(plane, side), [row, col], order=1, mode="nearest")
        for plane in PLANES
    ]
    return np.stack(values, axis=-1) @ mixture(nm)


def true_positions(claimed: Grid) -> tuple[np.ndarray, np.ndarray]:
    x, y = claimed.xy(*(axis.astype(float) for axis in np.indices(claimed.shape)))
    return x - MISPLACED_M[0], y - MISPLACED_M[1]


def enmap(folder: Path) -> Path:
    claimed = Grid.from_origin(FINE.crs, 561_215.0, 5_948_785.0, 30.0, 150, 150)
    nm = samples.enmap_bands(40)["centre"]
    dn = np.rint(np.moveaxis(seen(*true_positions(claimed), nm, 30), -1, 0) * 1e4).astype(np.int16)
    samples.make_enmap(folder / "enmap", dn, claimed)
    return folder / "enmap"


def desis(folder: Path) -> Path:
    claimed = Grid.from_origin(FINE.crs, 561_205.0, 5_948_805.0, 30.0, 150, 150)
    nm = (401.9 + 2.553 * 235 / 60 * np.arange(60)).round(3)
    dn = np.rint(np.moveaxis(seen(*true_positions(claimed), nm, 30), -1, 0) * 1e4).astype(np.int16)
    samples.make_desis(folder / "desis", dn, claimed)
    return folder / "desis"


def emit(folder: Path) -> Path:
    i, j = np.meshgrid(np.arange(95), np.arange(95), indexing="ij")
    turn = np.deg2rad(12)
    x = 560_600 + 60 * (np.cos(turn) * j + np.sin(turn) * i)
    y = 5_948_500 + 60 * (np.sin(turn) * j - np.cos(turn) * i)
    nm = np.linspace(400, 2400, 40)
    lon, lat = swath.TO_LONLAT.transform(x + MISPLACED_M[0], y + MISPLACED_M[1])
    path = folder / "EMIT_L2A_RFL_x.nc"
    with h5py.File(path, "w") as file:
        file["reflectance"] = seen(x, y, nm, 60).astype(np.float32)
        file["location/lon"], file["location/lat"] = lon, lat
        file["sensor_band_parameters/wavelengths"] = nm
        file["sensor_band_parameters/fwhm"] = np.full(nm.size, 8.5)
    return path


def prisma(level: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        x, y = swath.positions()
        x, y = x + 4300, y - 1200  # into the landscape
        bands = swath.BANDS
        image = np.rint(seen(x, y, bands.centre_nm, 30) * 65535).astype(np.uint16)
        lon, lat = swath.TO_LONLAT.transform(x + MISPLACED_M[0], y + MISPLACED_M[1])
        path = swath.write_swath(folder / "l2c.he5")
        with h5py.File(path, "r+") as file:
            group = file["HDFEOS/SWATHS/PRS_L2C_HCO"]
            group["Geolocation Fields/Latitude"][...], group["Geolocation Fields/Longitude"][...] = lat, lon
            file.attrs["Product_center_long"], file.attrs["Product_center_lat"] = lon.mean(), lat.mean()
            for detector in ("VNIR", "SWIR"):
                mine = np.flatnonzero(np.array(bands.detector) == detector)
                cube = np.zeros(group[f"Data Fields/{detector}_Cube"].shape, np.uint16)
                cube[:, bands.slot[mine], :] = np.moveaxis(image[..., mine], 2, 1)
                group[f"Data Fields/{detector}_Cube"][...] = cube
                group[f"Data Fields/{detector}_PIXEL_L2_ERR_MATRIX"][...] = 0
        return path if level == "2C" else swath.as_radiance(path, folder / f"l{level}.he5", level)

    return make


@pytest.fixture(scope="module")
def msi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("msi") / "m.tif"
    cube = np.einsum("kyx,kb->byx", PLANES, mixture(np.array(MSI_NM))).astype(np.float32)
    samples.write_tif(path, cube, FINE)
    with rasterio.open(path, "r+") as file:
        for band, nm in enumerate(MSI_NM, start=1):
            file.update_tags(band, wavelength=nm, wavelength_units="nm", fwhm=40)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "ratio"),
    [(enmap, 3), (desis, 3), (emit, 6), (prisma("2C"), 3), (prisma("2B"), 3), (prisma("1"), 3)],
    ids=["enmap", "desis", "emit", "prisma L2C", "prisma L2B", "prisma L1"],
)
def test_a_cube_where_the_truth_is(tmp_path: Path, msi: Path, make: Callable[[Path], Path], ratio: int) -> None:
    out = tmp_path / "o.tif"
    config = RunConfig(method="glp", report=False, bands="30")
    result = run_scene(make(tmp_path), [msi], out, config)
    assert result.summary["coregistration"]["verdict"] == "accepted"
    with rasterio.open(out) as cube:
        centres = np.array([float(cube.tags(i)["wavelength"]) for i in cube.indexes])
        band = int(np.abs(centres - CHECK_NM).argmin())
        got = cube.read(band + 1).astype(np.float64)
        got = np.where(got == cube.nodata, np.nan, got / 1e4)
        grid = Grid(cube.crs, cube.transform, *cube.shape)
    assert grid.pixel_m == 10
    assert abs(centres[band] - CHECK_NM) < 40
    block = grid.block_in(FINE)
    truth = np.einsum("kyx,k->yx", PLANES[:, *block.slices], mixture(centres[band : band + 1])[:, 0])
    inside = np.isfinite(got)
    assert inside.mean() > 0.5
    dy, dx = np.gradient(scipy.ndimage.gaussian_filter(truth, 2), 10.0)
    error = scipy.ndimage.gaussian_filter(np.where(inside, got - truth, 0), 2)
    well = scipy.ndimage.binary_erosion(inside, iterations=12)
    design = np.stack([dx[well], -dy[well], np.ones(well.sum())], axis=1)
    slip, *_ = np.linalg.lstsq(design, error[well], rcond=None)
    assert np.hypot(*slip[:2]) < 0.5 * 10, "half a pixel of the product"
    assert np.sqrt(np.mean((got - truth)[well] ** 2)) < 0.02
