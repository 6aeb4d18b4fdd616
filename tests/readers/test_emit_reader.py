"""EMIT L2A: a swath from the space station comes out where it belongs, with its bands and clouds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pyproj import Transformer
from rasterio.crs import CRS

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers import open_hsi
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.emit.product import EmitProduct

ROWS, COLS, BANDS = 110, 90, 285
NAME = "EMIT_L2A_RFL_001_20220903T163129_2224611_012.nc"
CENTRES = np.linspace(381.00558, 2492.9238, BANDS).astype(np.float32)
WIDTHS = np.linspace(8.4, 8.8, BANDS).astype(np.float32)
GOOD = ~((CENTRES > 1320) & (CENTRES < 1440))


def positions(rows: int = ROWS, cols: int = COLS) -> tuple[np.ndarray, np.ndarray]:
    """Map coordinates (EPSG:32633) of the stored pixels: an inclined orbit, terrain that bends the lines."""
    i, j = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    turn = np.deg2rad(38)
    x = 450_000 + 58 * (np.cos(turn) * j + np.sin(turn) * i) + 12 * np.sin(j / 11) * np.cos(i / 13)
    y = 5_200_000 + 58 * (np.sin(turn) * j - np.cos(turn) * i) + 9 * np.cos(i / 17)
    return x, y


def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.3 + 0.1 * np.sin(x / 600) + 0.08 * np.cos(y / 500)


def write(path: Path, *, west: float = 0.0, mask: bool = True, size: tuple[int, int] = (ROWS, COLS)) -> Path:
    x, y = positions(*size)
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
    lon = (lon + west + 180) % 360 - 180
    cube = ground(x, y)[..., None] * (0.5 + CENTRES / 2500)
    cube[..., ~GOOD] = -0.01
    cube[20:23, 30:33] = -9999
    with h5py.File(path, "w") as file:
        file.attrs["time_coverage_start"] = "2022-09-03T16:31:29+0000"
        file.attrs["product_version"] = "V001"
        file["reflectance"] = cube.astype(np.float32)
        file["reflectance"].attrs["_FillValue"] = np.float32(-9999)
        file["location/lon"], file["location/lat"] = lon, lat
        file["location/glt_x"] = np.zeros((9, 9), np.int32)
        file["sensor_band_parameters/wavelengths"] = CENTRES
        file["sensor_band_parameters/fwhm"] = WIDTHS
        file["sensor_band_parameters/good_wavelengths"] = GOOD.astype(np.uint8)
    if mask:
        layers = np.zeros((*size, 8), np.float32)
        layers[40:50, 40:60, 0] = layers[38:52, 38:62, 4] = layers[80:85, 10:20, 1] = 1
        layers[..., 2] = 1  # water is no cloud
        with h5py.File(path.with_name(path.name.replace("_RFL_", "_MASK_")), "w") as file:
            file["mask"] = layers
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("emit") / NAME)


def test_image_lies_on_the_truth(path: Path) -> None:
    assert choose_reader(path, "hsi").name == "emit"
    with open_hsi(path) as product:
        grid = product.grid
        assert (grid.crs, grid.pixel_m) == (CRS.from_epsg(32633), 60)
        bands = [20, 100, 250]
        got = product.read(grid.full, bands)
        x, y = grid.xy(*(axis.astype(float) for axis in np.indices(grid.shape)))
        truth = ground(x, y) * (0.5 + CENTRES[bands] / 2500)[:, None, None]
        inside = np.isfinite(got[0])
        assert inside.sum() == pytest.approx(ROWS * COLS * 58**2 / 3600, rel=0.03)
        assert np.sqrt(np.nanmean((got - truth) ** 2)) < 1e-3
        dy, dx = np.gradient(truth[0], 60.0)
        design = np.stack([dx[inside], -dy[inside]], axis=1)
        slip, *_ = np.linalg.lstsq(design, (got - truth)[0][inside], rcond=None)
        assert np.hypot(*slip) < 1.0
        block = Slice2D(30, 77, 25, 90)
        np.testing.assert_allclose(product.read(block, bands), got[:, *block.slices], atol=1e-6)
        assert np.array_equal(product.valid(grid.full), inside)


def test_bands_masks_and_facts_by_independent_code(path: Path) -> None:
    x, y = positions()
    with EmitProduct(path) as product, h5py.File(path, locking=False) as file:
        group = file["sensor_band_parameters"]
        np.testing.assert_allclose(product.bands.centre_nm, group["wavelengths"][...], atol=1e-4)
        np.testing.assert_allclose(product.bands.fwhm_nm, group["fwhm"][...], atol=1e-4)
        assert np.array_equal(product.bands.good, group["good_wavelengths"][...] == 1)
        cloud = product.cloud(product.grid.full)
        for i, j, hidden in ((45, 50, True), (38, 39, True), (82, 15, True), (10, 70, False), (21, 31, False)):
            row, col = (round(float(v)) for v in product.grid.rowcol(x[i, j], y[i, j]))
            assert cloud[row, col] == hidden
            value = product.read(Slice2D(row, row + 1, col, col + 1), [60])[0, 0, 0]
            stored = file["reflectance"][i, j, 60]
            assert np.isnan(value) if stored == -9999 else value == pytest.approx(stored, abs=0.02)
        assert product.info.start.isoformat() == "2022-09-03T16:31:29+00:00"
        assert product.error_codes(product.grid.full) is None
        assert product.info.attributes["cloud_percent"] == pytest.approx(100 * (14 * 24 + 50) / (ROWS * COLS), abs=0.1)


def test_a_swath_across_the_180th_meridian(tmp_path: Path) -> None:
    x, y = positions()
    lon, _ = Transformer.from_crs(32633, 4326, always_xy=True).transform(x.mean(), y.mean())
    with EmitProduct(write(tmp_path / NAME, west=180 - lon, mask=False)) as product:
        assert max(product.grid.shape) < 200
        assert np.isfinite(product.read(product.grid.full, [60])).sum() > 0.9 * ROWS * COLS * 58**2 / 3600
        assert product.cloud(product.grid.full) is None
        assert any("mask file" in text for text in product.info.warnings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.__delitem__("location/lat"), "'location/lat' is missing"),
        (lambda f: f.__delitem__("sensor_band_parameters/fwhm"), "fwhm' is missing"),
        (lambda f: f["sensor_band_parameters/wavelengths"].write_direct(CENTRES * 10), "are not EMIT's"),
        (lambda f: f["sensor_band_parameters/wavelengths"].write_direct(CENTRES[::-1].copy()), "are not EMIT's"),
        (lambda f: f["location/lat"].write_direct(np.full((ROWS, COLS), np.nan)), "have gaps"),
        (
            lambda f: f["location/lat"].write_direct(np.random.default_rng(0).normal(47, 0.1, (ROWS, COLS))),
            "regular swath",
        ),
    ],
)
def test_files_that_cannot_be_meant(path: Path, tmp_path: Path, change, words: str) -> None:
    copy = tmp_path / NAME
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=words) as caught:
        open_hsi(copy)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_a_mask_of_another_scene(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / NAME
    copy.write_bytes(path.read_bytes())
    with h5py.File(tmp_path / NAME.replace("_RFL_", "_MASK_"), "w") as file:
        file["mask"] = np.zeros((5, 5, 8), np.float32)
    with pytest.raises(InputError, match=r"the mask has the shape \(5, 5, 8\)"):
        open_hsi(copy)


class TestIncomplete:
    @pytest.mark.parametrize("left", [0, 3000])
    def test_a_file_that_is_cut_off(self, path: Path, tmp_path: Path, left: int) -> None:
        cut = tmp_path / NAME
        cut.write_bytes(path.read_bytes()[:left])
        with pytest.raises(InputError, match=r"truncated|damaged|not an HDF5 file") as caught:
            open_hsi(cut)
        assert caught.value.exit_code == 3
        assert "EMIT_L2A_RFL" in caught.value.hint or "Download" in caught.value.hint

    def test_another_level(self, tmp_path: Path) -> None:
        other = tmp_path / NAME.replace("L2A_RFL", "L1B_RAD")
        with h5py.File(other, "w") as file:
            file["radiance"] = np.zeros((4, 4, 3), np.float32)
        with pytest.raises(InputError, match="'reflectance' is missing") as caught:
            open_hsi(other)
        assert "EMIT_L2A_RFL" in caught.value.hint

    @pytest.mark.parametrize("name", [NAME.replace("_RFL_", "_MASK_"), "renamed.nc"])
    def test_another_file_of_the_same_scene(self, tmp_path: Path, name: str) -> None:
        mask = tmp_path / name
        with h5py.File(mask, "w") as file:
            file["mask"] = np.zeros((4, 4, 8), np.float32)
            file["sensor_band_parameters/mask_bands"] = np.array(["Cloud flag"] * 8, dtype="S20")
            file["location/lon"], file["location/lat"] = np.zeros((2, 4, 4))
        with pytest.raises(InputError, match="EMIT product holds no reflectance") as caught:
            open_hsi(mask)
        assert "EMIT_L2A_RFL" in caught.value.hint

    def test_lists_and_positions_of_another_size(self, path: Path, tmp_path: Path) -> None:
        for number, (name, values, words) in enumerate((
            ("sensor_band_parameters/fwhm", WIDTHS[:-1], "has 284 entries for 285 bands"),
            ("location/lat", np.zeros((5, 5)), r"'location/lat' has \(5, 5\) pixels, the image \(110, 90\)"),
        )):  # fmt: skip
            copy = tmp_path / f"{number}{NAME}"
            copy.write_bytes(path.read_bytes())
            with h5py.File(copy, "r+") as file:
                del file[name]
                file[name] = values
            with pytest.raises(InputError, match=words) as caught:
                open_hsi(copy)
            assert caught.value.exit_code == 3
