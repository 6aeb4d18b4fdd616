"""The simulated pair: both products show the scene as their settings say, and the readers find them right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.sensors.sentinel2 import table_responses
from hsfuse.simulate.hyperspectral_sensor import Footprint, HyperspectralSensor, Optics
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.simulate.products import SimulatedPair, SimulationConfig, plan_grids, simulate_pair
from hsfuse.simulate.s2_sensor import Sentinel2Sensor
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import OPAQUE, Clouds, prisma_snr, transmittance
from hsfuse.simulate.true_field import TrueField

SMALL = {"rows": 60, "cols": 66, "seed": 4, "psf_fwhm": 1.3}
IDEAL = Optics(1.3, np.inf, 0.0, 0.0, 0.0, failed_bands=False)
BANDS = default_prisma_bands().take([5, 20, 40, 55, 80, 110, 150, 190, 215])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    folder = tmp_path_factory.mktemp("pair")
    return simulate_pair(folder, **SMALL, cloud_fraction=0.15, hsi_cloud_fraction=0.1)


@pytest.fixture(scope="module")
def clear() -> tuple[SimulationConfig, Grid, Truth, TrueField]:
    """A cloudless scene without products."""
    config = SimulationConfig(**SMALL)
    hsi_grid, truth_grid, field = plan_grids(config)
    return config, hsi_grid, Truth.generate(truth_grid, seed=config.seed), field


def look(
    truth: Truth, grid: Grid, field: TrueField, optics: Optics = IDEAL, angle: float = 0.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Observe without writing: samples, codes, footprint."""
    sensor = HyperspectralSensor(truth, grid, field, BANDS, Footprint(grid.shape, angle), optics, None, seed=seed)
    blocks = list(sensor.blocks())
    return (
        np.concatenate([block.reflectance for block in blocks], axis=1),
        np.concatenate([block.error_codes for block in blocks], axis=1),
        np.concatenate([block.valid for block in blocks]),
    )


def integrate(truth: Truth, x: float, y: float, fwhm_m: float, bands: Any = BANDS) -> NDArray[np.float64]:
    """Independent oracle: Gaussian-weighted mean of the truth around one true position."""
    row, col = (float(v) for v in truth.grid.rowcol(x, y))
    reach = 12
    block = Slice2D(int(row) - reach, int(row) + reach + 2, int(col) - reach, int(col) + reach + 2)
    rows, cols = np.mgrid[block.row0 : block.row1, block.col0 : block.col1]
    sigma = fwhm_m / 10.0 / 2.354820045
    weight = np.exp(-0.5 * ((rows - row) ** 2 + (cols - col) ** 2) / sigma**2)
    return np.tensordot(truth.reflectance(bands, block), weight / weight.sum(), axes=([1, 2], [0, 1]))


class TestPosition:
    @pytest.mark.parametrize("epsg", [32632, 32633])
    def test_pixels_show_the_ground_at_claimed_plus_field(self, epsg: int) -> None:
        config = SimulationConfig(**SMALL, hsi_epsg=epsg, rotation_deg=0.3, wave_m=25.0, shift_m=(133.0, -71.0))
        grid, truth_grid, field = plan_grids(config)
        truth = Truth.generate(truth_grid, seed=1)
        cube, _, _ = look(truth, grid, field)
        for row, col in ((0, 0), (3, 60), (30, 31), (58, 2), (59, 65)):
            x, y = (float(v) for v in grid.xy(row, col))
            dx, dy = (float(v) for v in field.at(x, y))
            true_x, true_y = reproject_xy(grid.crs, truth.grid.crs, np.array([x + dx]), np.array([y + dy]))
            expected = integrate(truth, float(true_x[0]), float(true_y[0]), 1.3 * 30.0)
            # The sensor blurs on pixels and interpolates (cubic); the oracle weighs with a shifted Gaussian.
            assert_allclose(cube[:, row, col], expected, rtol=0.01, atol=5e-4)

    def test_field_matters(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, grid, truth, field = clear
        cube, _, _ = look(truth, grid, field)
        x, y = (float(v) for v in grid.xy(30, 30))
        assert not np.allclose(cube[:, 30, 30], integrate(truth, x, y, 39.0), rtol=0.02)

    def test_swir_may_look_elsewhere(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, grid, truth, field = clear
        cube, _, _ = look(truth, grid, field, replace(IDEAL, vnir_swir_shift_m=(12.0, -9.0)))
        x, y = (float(v) for v in grid.xy(20, 40))
        dx, dy = (float(v) for v in field.at(x, y))
        vnir = integrate(truth, x + dx, y + dy, 39.0)
        swir = integrate(truth, x + dx + 12.0, y + dy - 9.0, 39.0)
        expected = np.where(np.array(BANDS.detector) == "SWIR", swir, vnir)
        assert_allclose(cube[:, 20, 40], expected, rtol=0.01, atol=5e-4)

    def test_grids_do_not_share_pixel_edges(self) -> None:
        hsi, truth_grid, field = plan_grids(SimulationConfig(**SMALL))
        assert hsi.transform.c % 10 == pytest.approx(3.5)
        assert (hsi.transform.f % 10) not in (0.0, 5.0)
        assert truth_grid.transform.c % 20 == 0.0
        assert truth_grid.height % 6 == truth_grid.width % 6 == 0
        assert 80.0 <= np.hypot(field.shift_x_m, field.shift_y_m) <= 300.0


class TestPrisma:
    def test_reader_finds_grid_bands_and_footprint(self, pair: SimulatedPair) -> None:
        with PrismaProduct(pair.prisma) as product:
            grid, _, _ = plan_grids(pair.config)
            assert product.grid.shape == (60, 66)
            assert product.grid.aligned_with(grid)
            valid = product.valid(product.grid.full)
            sides = Footprint((60, 66), pair.config.footprint_deg).sides
            assert valid.sum() == pytest.approx(sides[0] * sides[1], rel=0.04)
            assert not valid[0, 0]
            assert not valid[-1, -1]
            assert valid[30, 33]

    def test_bad_bands_are_bad_and_good_ones_good(self, pair: SimulatedPair) -> None:
        with PrismaProduct(pair.prisma) as product:
            full = product.grid.full
            valid = product.valid(full)
            cube = product.read(full)
            codes = product.error_codes(full)
            assert codes is not None
            nm = product.bands.centre_nm
            lost = np.isnan(cube[:, valid]).mean(axis=1)
            deep = ((nm > 1360) & (nm < 1430)) | ((nm > 1840) & (nm < 1930))
            fine = ((nm > 430) & (nm < 750)) | ((nm > 1000) & (nm < 1080)) | ((nm > 1500) & (nm < 1750))
            assert lost[deep].min() > 0.95
            assert lost[fine].max() < 0.05
            inside = codes[:, valid]
            for code in (ERROR_INVALID_L1, ERROR_NEGATIVE):
                assert np.any(inside & code)
            assert not np.any(codes[:, ~valid])

    def test_noise_has_the_stated_level(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, grid, truth, field = clear
        quiet, _, _ = look(truth, grid, field)
        noisy, _, _ = look(truth, grid, field, replace(IDEAL, snr_scale=0.5))
        sigma = (noisy - quiet).std(axis=(1, 2))
        level = 0.3 / (0.5 * prisma_snr(BANDS.centre_nm)) * np.sqrt(0.3 + 0.7 * quiet.mean(axis=(1, 2)) / 0.3)
        assert_allclose(sigma, level, rtol=0.06)

    def test_stripes_run_along_the_flight_direction(
        self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]
    ) -> None:
        _, grid, truth, field = clear
        quiet, _, _ = look(truth, grid, field)
        striped, _, _ = look(truth, grid, field, replace(IDEAL, stripe_scale=3.0))
        change = (striped - quiet)[3]
        across, along = change.mean(axis=0), change - change.mean(axis=0)
        assert across.std() > 2.0 * along.std()

    def test_smile_moves_the_red_edge_at_the_swath_ends(
        self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]
    ) -> None:
        _, grid, truth, field = clear
        quiet, _, _ = look(truth, grid, field)
        smiling, _, _ = look(truth, grid, field, replace(IDEAL, smile_nm=2.0))
        change = np.abs(smiling - quiet).mean(axis=(0, 1))
        assert change[33] < 0.05 * min(change[0], change[-1])
        x, y = (float(v) for v in grid.xy(20, 0))
        dx, dy = (float(v) for v in field.at(x, y))
        moved = replace(BANDS, centre_nm=BANDS.centre_nm + 2.0 * (1.0 - 1.0 / 66.0) ** 2)
        assert_allclose(smiling[:, 20, 0], integrate(truth, x + dx, y + dy, 39.0, moved), rtol=0.012, atol=6e-4)

    def test_bright_samples_saturate(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, grid, truth, field = clear
        cube, codes, _ = look(truth, grid, field, replace(IDEAL, maximum=(0.2, 0.2)))
        assert_array_equal(codes == ERROR_SATURATED, cube > 0.2)

    def test_panchromatic_image_sees_the_same_ground(
        self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]
    ) -> None:
        _, grid, truth, field = clear
        sensor = HyperspectralSensor(truth, grid, field, BANDS, Footprint(grid.shape, 0.0), IDEAL, None, seed=0)
        pan = np.concatenate([block.reflectance for block in sensor.pan_blocks(6)])
        assert pan.shape == (360, 396)
        coarse = pan.reshape(60, 6, 66, 6).mean(axis=(1, 3))
        green = look(truth, grid, field)[0][1]
        assert np.corrcoef(coarse.ravel(), green.ravel())[0, 1] > 0.9

    def test_footprints_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(UsageError, match="30 degrees"):
            Footprint((60, 60), 40.0)
        with pytest.raises(UsageError, match="does not fit"):
            Footprint((30, 90), 25.0)

    def test_scene_without_margin_is_refused(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, grid, truth, field = clear
        with pytest.raises(UsageError, match="too small"):
            look(truth, grid, replace(field, shift_x_m=2000.0))


class TestSentinel2:
    def test_reader_sees_the_truth_through_the_response(self, tmp_path: Path) -> None:
        made = simulate_pair(
            tmp_path, rows=40, cols=40, seed=2, snr_scale=np.inf, s2_psf_fwhm=0.0, pan=False, footprint_deg=0.0
        )
        truth = Truth.load(made.truth)
        with Sentinel2Product(made.sentinel2, bands="all") as product:
            assert product.grid == truth.grid
            assert product.responses is not None
            block = Slice2D(10, 40, 20, 60)
            ten = [product.band_names.index(name) for name in ("B02", "B03", "B04", "B08")]
            expected = truth.response(table_responses("Sentinel-2A", ["B02", "B03", "B04", "B08"]), block)
            assert_allclose(product.read(block, ten), expected, atol=6e-5)
            classes = product.classes(block)
            assert classes is not None
            assert set(np.unique(classes)) <= {4, 5, 6}

    def test_coarse_bands_are_means_of_four(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, _, truth, _ = clear
        sensor = self.sensor(truth, truth.grid)
        block = Slice2D(4, 30, 2, 40)
        fine = truth.response(table_responses("Sentinel-2A", ["B11"]), block.scaled(2))[0]
        assert_allclose(sensor.band("B11")(block), fine.reshape(26, 2, 38, 2).mean(axis=(1, 3)), rtol=1e-5)

    def test_beyond_the_scene_it_is_mirrored(self, clear: tuple[SimulationConfig, Grid, Truth, TrueField]) -> None:
        _, _, truth, _ = clear
        height, width = truth.grid.shape
        wide = truth.grid.pad(40)
        view = self.sensor(truth, wide).band("B04")(wide.full)
        inside = self.sensor(truth, truth.grid).band("B04")(truth.grid.full)
        assert_array_equal(view[40 : 40 + height, 40 : 40 + width], inside)
        assert_array_equal(view[39::-1, 40 : 40 + width], inside[:40])
        assert_array_equal(view[40 : 40 + height, 40 + width :], inside[:, :-41:-1])
        classes = self.sensor(truth, wide).classes(Slice2D(0, wide.height // 2, 0, wide.width // 2))
        assert classes.shape == (wide.height // 2, wide.width // 2)

    def test_clouds_are_bright_and_classified(self, pair: SimulatedPair) -> None:
        with Sentinel2Product(pair.sentinel2) as product:
            full = product.grid.full
            cloud, classes = product.cloud(full), product.classes(full)
            image = product.read(full)
            assert cloud is not None
            assert classes is not None
            assert np.isin(classes, (8, 9, 10)).mean() == pytest.approx(0.15, abs=0.05)
            assert {3, 4, 5, 8, 9} <= set(np.unique(classes))
            blue = image[0]
            assert np.median(blue[classes == 9]) > 0.5
            assert np.median(blue[classes == 4]) < 0.1
            near_infrared = image[3]
            assert np.median(near_infrared[classes == 3]) < 0.75 * np.median(near_infrared[classes == 4])

    @staticmethod
    def sensor(truth: Truth, grid: Grid) -> Sentinel2Sensor:
        return Sentinel2Sensor(
            truth, grid, spacecraft="Sentinel-2A", psf_fwhm=0.0, snr_scale=np.inf, clouds=None, seed=0
        )


class TestClouds:
    @pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
    def test_fraction_is_met(self, fraction: float) -> None:
        clouds = Clouds.random((300, 280), np.random.default_rng(0), fraction=fraction, pixel_m=10.0, shadow_m=500.0)
        assert clouds is not None
        assert (clouds.opacity > 0).mean() == pytest.approx(fraction, abs=0.01)

    def test_shadow_is_the_cloud_displaced(self) -> None:
        opacity = np.zeros((40, 50), np.uint8)
        opacity[20:24, 10:15] = 255
        clouds = Clouds(opacity, (-8, 6))
        _, shadow = clouds.block(slice(0, 40), slice(0, 50))
        assert_array_equal(shadow[12:16, 16:21], 1.0)
        assert shadow.sum() == 20.0
        _, part = clouds.block(slice(10, 20), slice(12, 30))
        assert_array_equal(part, shadow[10:20, 12:30])

    def test_no_clouds(self) -> None:
        assert Clouds.random((9, 9), np.random.default_rng(0), fraction=0.0, pixel_m=10.0, shadow_m=1.0) is None


def test_air_is_opaque_where_bands_fail() -> None:
    nm = np.arange(400.0, 2500.0)
    opaque = transmittance(nm) < OPAQUE
    assert opaque[(nm > 1350) & (nm < 1440)].all()
    assert opaque[(nm > 1825) & (nm < 1930)].all()
    assert not opaque[nm < 1300].any()
    assert not opaque[(nm > 1490) & (nm < 1790)].any()
    assert not opaque[(nm > 2010)].any()


class TestPair:
    def test_files_carry_their_agencies_names(self, pair: SimulatedPair) -> None:
        assert pair.prisma.name.startswith("PRS_L2D_STD_2024")
        assert pair.sentinel2.name.startswith("S2A_MSIL2A_2024")
        names = {path.name for path in pair.prisma.parent.iterdir()}
        assert names == {pair.prisma.name, pair.sentinel2.name, "truth.npz"}

    def test_truth_knows_field_and_settings(self, pair: SimulatedPair) -> None:
        truth = Truth.load(pair.truth)
        assert truth.field == pair.field
        assert truth.facts["config"]["seed"] == 4
        with PrismaProduct(pair.prisma) as product:
            grid = product.grid
        x, y = grid.xy(30.0, 33.0)
        dx, dy = truth.field.at(x, y)
        assert np.hypot(dx, dy) > 50.0

    def test_equal_settings_give_equal_pixels(self, pair: SimulatedPair, tmp_path: Path) -> None:
        again = simulate_pair(tmp_path, pair.config)
        with PrismaProduct(pair.prisma) as first, PrismaProduct(again.prisma) as second:
            assert_array_equal(first.read(first.grid.full), second.read(second.grid.full))
        with Sentinel2Product(pair.sentinel2) as first, Sentinel2Product(again.sentinel2) as second:
            assert_array_equal(first.read(first.grid.full), second.read(second.grid.full))

    def test_existing_products_are_not_replaced_unasked(self, tmp_path: Path) -> None:
        tiny = SimulationConfig(rows=30, cols=30, pan=False, s2_bands="10m", footprint_deg=0.0)
        first = simulate_pair(tmp_path, tiny)
        with pytest.raises(OutputError, match="already"):
            simulate_pair(tmp_path, tiny)
        second = simulate_pair(tmp_path, tiny, overwrite=True, seed=9)
        assert second.prisma == first.prisma
        assert second.config.seed == 9

    def test_size_may_be_given_as_one_pair(self, tmp_path: Path) -> None:
        made = simulate_pair(tmp_path, size_px=(28, 34), pan=False, s2_bands="10m", footprint_deg=0.0)
        assert (made.config.rows, made.config.cols) == (28, 34)

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"rows": 5}, "rows"),
            ({"psf_fwhm": 0.0}, "psf-fwhm"),
            ({"rows": 30, "cols": 90, "footprint_deg": 25.0}, "footprint"),
            ({"moons": 2}, "moons"),
        ],
    )
    def test_wrong_settings_name_themselves(self, tmp_path: Path, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(UsageError, match=named):
            simulate_pair(tmp_path / "new", **settings)
        assert not (tmp_path / "new").exists()

    def test_unusable_folder_is_an_output_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be used"):
            simulate_pair(tmp_path / "file" / "below", rows=30, cols=30)

    def test_progress_reaches_the_end_of_every_stage(self, tmp_path: Path) -> None:
        record = _Record()
        simulate_pair(tmp_path, rows=40, cols=40, footprint_deg=0.0, s2_bands="10m", progress=record)
        assert list(record.done) == ["draw the scene", "write hyperspectral product", "write Sentinel-2 product"]
        for name, done in record.done.items():
            assert done == pytest.approx(record.total[name], rel=0.01)


class _Record:
    """A progress display that remembers and, like a real one, shows one stage at a time."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}
        self.total: dict[str, float] = {}
        self.open = ""

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[_Record]:
        assert not self.open
        self.open, self.done[name], self.total[name] = name, 0.0, total
        yield self
        self.open = ""

    def advance(self, amount: float = 1.0) -> None:
        self.done[self.open] += amount
