"""The simulated ground truth: spectra, textures, landscape, storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from rasterio.crs import CRS
from scipy import ndimage, stats

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.simulate.endmembers import Endmembers
from hsfuse.simulate.landscape import Landscape
from hsfuse.simulate.mixtures import BUILT, CROP, FOREST, LABELS, WATER
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.texture import Districts, Subdivision, fractal, unit
from hsfuse.simulate.training_scene import training_scene, vary_spectra
from hsfuse.simulate.true_field import TrueField
from hsfuse.spectral import SpectralResponse

UTM = CRS.from_epsg(32632)


def grid_of(height: int, width: int) -> Grid:
    return Grid.from_origin(UTM, 600_000.0, 5_000_040.0, 10.0, height, width)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.generate(grid_of(402, 420), seed=5, field=TrueField(shift_x_m=80.0), facts={"made": "here"})


def flat_spectra(values: np.ndarray, wavelength_nm: np.ndarray) -> Endmembers:
    return Endmembers(wavelength_nm, np.atleast_2d(values), ("test",), ("test",))


class TestEndmembers:
    def test_library_is_physical_and_covers_the_sensor(self) -> None:
        library = Endmembers.load()
        assert 55 <= len(library) <= 75
        assert library.reflectance.min() > 0.0
        assert library.reflectance.max() < 0.8
        bands = library.in_bands(default_prisma_bands())
        assert bands.shape == (234, len(library))
        assert np.isfinite(bands).all()

    def test_spectra_look_like_what_they_are_called(self) -> None:
        library = Endmembers.load()
        red, infrared, swir = library.in_bands([665.0, 850.0, 1650.0], 20.0)
        for group in ("crop", "grass", "broadleaf", "conifer"):
            index = library.of(group)
            assert np.all((infrared - red)[index] / (infrared + red)[index] > 0.5)
        assert np.all(swir[library.of("water")] < 0.02)
        soil = library.of("soil")
        assert np.median(swir[soil] / red[soil]) > 1.0

    def test_band_of_a_straight_spectrum_is_its_value_at_the_centre(self) -> None:
        nm = np.arange(370.0, 2541.0, 10.0)
        line = flat_spectra(0.1 + 2e-4 * nm, nm)
        centre = np.array([450.0, 1234.5, 2490.0])
        assert_allclose(line.in_bands(centre, [9.0, 12.0, 10.0])[:, 0], 0.1 + 2e-4 * centre, rtol=1e-6)

    def test_band_of_a_gaussian_line_has_the_closed_form_height(self) -> None:
        nm = np.arange(370.0, 2541.0, 1.0)
        line = flat_spectra(np.where(abs(nm - 1000.0) < 60.0, np.exp(-0.5 * ((nm - 1000.0) / 8.0) ** 2), 0.0), nm)
        sigma = 10.0 / 2.354820045
        expected = 8.0 / np.hypot(8.0, sigma)  # product of two Gaussians, integrated
        assert_allclose(line.in_bands(1000.0, 10.0)[0, 0], expected, rtol=2e-4)

    def test_response_and_band_agree(self) -> None:
        library = Endmembers.load()
        response = SpectralResponse.gaussian("B", 842.0, 30.0)
        assert_allclose(library.in_responses([response])[0], library.in_bands(842.0, 30.0)[0], rtol=1e-3)

    @pytest.mark.parametrize("centre", [350.0, 2600.0])
    def test_bands_beyond_the_spectra_are_refused(self, centre: float) -> None:
        with pytest.raises(UsageError, match="cover"):
            Endmembers.load().in_bands(centre, 10.0)

    def test_unknown_kind_and_far_response_are_refused(self) -> None:
        library = Endmembers.load()
        with pytest.raises(UsageError, match="lava"):
            library.of("lava")
        with pytest.raises(UsageError, match="TIR"):
            library.in_responses([SpectralResponse.gaussian("TIR", 10_000.0, 500.0)])


class TestTexture:
    @pytest.mark.parametrize("slope", [1.5, 2.5, 4.0])
    def test_fractal_has_the_asked_roughness(self, slope: float) -> None:
        texture = fractal((256, 256), np.random.default_rng(1), slope=slope, outer_px=1e6)
        power = np.abs(np.fft.fft2(texture * np.outer(np.hanning(256), np.hanning(256)))) ** 2
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        use = (radius > 0.03) & (radius < 0.3)
        fitted = stats.linregress(np.log(radius[use]), np.log(power[use])).slope
        assert fitted == pytest.approx(-slope, abs=0.25)

    def test_fractal_is_standardised_and_repeatable(self) -> None:
        first = fractal((300, 200), np.random.default_rng(2), slope=1.5, outer_px=20.0)
        again = fractal((300, 200), np.random.default_rng(2), slope=1.5, outer_px=20.0)
        assert first.shape == (300, 200)
        assert first.dtype == np.float32
        assert first.std() == pytest.approx(1.0, abs=0.05)
        assert_array_equal(first, again)

    def test_opposite_edges_are_unrelated(self) -> None:
        related = [
            stats.pearsonr(field[:, 0], field[:, -1]).statistic
            for field in (fractal((200, 200), np.random.default_rng(i), slope=2.0, outer_px=15.0) for i in range(20))
        ]
        assert abs(np.mean(related)) < 0.15

    def test_hash_is_uniform(self) -> None:
        values = unit(np.arange(50_000, dtype=np.uint32), 3)
        assert stats.kstest(values, "uniform").pvalue > 1e-3

    def test_district_borders_lie_between_districts(self) -> None:
        y, x = np.mgrid[0:120, 0:150].astype(np.float32) * 10.0
        cell, border = Districts(400.0, 9).at(x, y)
        change = cell[:, 1:] != cell[:, :-1]
        assert change.any()
        assert border[:, 1:][change].max() < 20.0
        assert np.abs(np.diff(border, axis=1)).max() < 10.1

    def test_subdivision_pieces_are_irregular(self) -> None:
        line = Subdivision.random(np.random.default_rng(0), spread=0.5)
        position = np.arange(0.0, 500.0, 0.01, dtype=np.float32)
        piece, edge = line.at(position, np.zeros(position.size, np.uint32))
        lengths = np.diff(np.flatnonzero(np.diff(piece.astype(np.int64)))) * 0.01
        assert lengths.std() / lengths.mean() > 0.3
        assert edge.min() >= 0.0
        assert edge[:-1][np.diff(piece.astype(np.int64)) != 0].max() < 0.03


class TestLandscape:
    def test_cutting_into_strips_changes_nothing(self) -> None:
        landscape = Landscape((90, 130), seed=11)
        whole = landscape.strip(0, 90)
        for first, last in ((0, 31), (31, 32), (32, 90)):
            part = landscape.strip(first, last)
            assert_array_equal(part.index, whole.index[:, first:last])
            assert_array_equal(part.weight, whole.weight[:, first:last])
            assert_array_equal(part.shade, whole.shade[first:last])
            assert_array_equal(part.label, whole.label[first:last])

    def test_shares_are_complete(self, truth: Truth) -> None:
        assert_array_equal(truth.weight.sum(axis=0, dtype=np.int64), 255)
        assert truth.index.max() < len(truth.endmembers)

    def test_every_kind_of_surface_occurs(self) -> None:
        seen = np.zeros(len(LABELS), np.int64)
        for seed in range(3):
            labels = Truth.generate(grid_of(360, 360), seed=seed).label
            share = np.bincount(labels.ravel(), minlength=len(LABELS))
            seen += share
            assert share[CROP] > 0.1 * labels.size
            assert share[BUILT] > 0.01 * labels.size
        assert np.all(seen > 0)

    def test_surfaces_have_their_spectra(self, truth: Truth) -> None:
        red, infrared, swir = truth.reflectance(([665.0, 850.0, 1650.0], [30.0, 30.0, 60.0]), truth.grid.full)
        index = (infrared - red) / (infrared + red)
        assert np.median(index[truth.label == FOREST]) > 0.6
        assert np.median(swir[truth.label == WATER]) < 0.03
        assert abs(np.median(index[truth.label == BUILT])) < 0.4

    def test_nothing_repeats(self, truth: Truth) -> None:
        band = truth.reflectance(([842.0], [100.0]), truth.grid.full)[0].astype(np.float64)
        band -= ndimage.gaussian_filter(band, 12.0)
        spectrum = np.fft.fft2(band)
        likeness = np.fft.ifft2(np.abs(spectrum) ** 2).real
        likeness /= likeness[0, 0]
        rows, cols = np.meshgrid(*(np.fft.fftfreq(n, 1.0 / n) for n in band.shape), indexing="ij")
        assert likeness[np.hypot(rows, cols) > 12.0].max() < 0.25

    def test_scene_is_sharp_at_pixel_scale(self, truth: Truth) -> None:
        band = truth.reflectance(([665.0], [30.0]), truth.grid.full)[0]
        town = truth.label == BUILT
        step = np.abs(np.diff(band, axis=1))[town[:, 1:] & town[:, :-1]]
        assert np.percentile(step, 75) > 0.02


class TestTruth:
    def test_seed_decides(self) -> None:
        first, again, other = (Truth.generate(grid_of(60, 66), seed=seed) for seed in (1, 1, 2))
        assert_array_equal(first.index, again.index)
        assert_array_equal(first.shade, again.shade)
        assert (first.index != other.index).mean() > 0.3

    def test_reflectance_is_the_sum_of_the_mixture(self, truth: Truth) -> None:
        bands = default_prisma_bands()
        spectra = truth.endmembers.in_bands(bands)
        block = Slice2D(100, 160, 200, 280)
        cube = truth.reflectance(bands, block)
        for row, col in ((100, 200), (131, 217), (159, 279)):
            light = truth.shade[row, col] / 160.0
            mixture = sum(
                truth.weight[slot, row, col] / 255.0 * spectra[:, truth.index[slot, row, col]] for slot in range(4)
            )
            assert_allclose(cube[:, row - 100, col - 200], light * mixture, rtol=2e-5)

    def test_few_bands_and_many_bands_agree(self, truth: Truth) -> None:
        bands = default_prisma_bands()
        block = Slice2D(0, 50, 10, 90)
        many = truth.reflectance(bands, block)
        few = truth.reflectance(bands.take([3, 120]), block)
        assert_allclose(few, many[[3, 120]], rtol=1e-5, atol=1e-7)

    def test_coefficients_reproduce_reflectance(self, truth: Truth) -> None:
        block = Slice2D(30, 60, 40, 90)
        bands = default_prisma_bands().take(np.arange(0, 234, 9))
        mixed = np.tensordot(truth.endmembers.in_bands(bands), truth.coefficients(block), axes=1)
        assert_allclose(mixed, truth.reflectance(bands, block), rtol=1e-4, atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 401), st.integers(0, 419), st.integers(1, 60), st.integers(1, 60))
    def test_any_window_is_a_crop_of_the_whole(self, truth: Truth, row: int, col: int, rows: int, cols: int) -> None:
        block = Slice2D(row, row + rows, col, col + cols).clipped(*truth.grid.shape)
        response = [SpectralResponse.gaussian("B04", 665.0, 31.0)]
        assert_array_equal(
            truth.response(response, block),
            truth.response(response, truth.grid.full)[(slice(None), *block.slices)],
        )
        assert_array_equal(truth.labels(block), truth.label[block.slices])

    @pytest.mark.parametrize("block", [Slice2D(-1, 5, 0, 5), Slice2D(0, 5, 400, 421), Slice2D(5, 5, 0, 5)])
    def test_windows_outside_are_refused(self, truth: Truth, block: Slice2D) -> None:
        with pytest.raises(UsageError, match="not inside the simulated scene"):
            truth.reflectance(([665.0], [30.0]), block)

    def test_saved_and_loaded_truth_are_equal(self, truth: Truth, tmp_path: Path) -> None:
        truth.save(tmp_path / "truth.npz")
        loaded = Truth.load(tmp_path / "truth.npz")
        assert loaded.grid == truth.grid
        assert loaded.field == truth.field
        assert loaded.facts == truth.facts
        bands = default_prisma_bands().take([0, 50, 200])
        assert_array_equal(loaded.reflectance(bands, truth.grid.full), truth.reflectance(bands, truth.grid.full))
        assert_array_equal(loaded.label, truth.label)
        assert [path.name for path in tmp_path.iterdir()] == ["truth.npz"]

    def test_unreadable_truth_says_so(self, truth: Truth, tmp_path: Path) -> None:
        path = tmp_path / "truth.npz"
        with pytest.raises(InputError, match=r"truth\.npz"):
            Truth.load(path)
        truth.save(path)
        whole = path.read_bytes()
        for content in (b"", b"nonsense", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(InputError, match="not a ground truth"):
                Truth.load(path)
        np.savez(path, something=np.zeros(3))
        with pytest.raises(InputError, match="not a ground truth"):
            Truth.load(path)

    def test_missing_folder_is_an_output_error(self, truth: Truth, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="cannot be written"):
            truth.save(tmp_path / "nowhere" / "truth.npz")


class TestTrueField:
    def test_rotation_turns_counter_clockwise_about_the_centre(self) -> None:
        field = TrueField(centre_x_m=1000.0, centre_y_m=2000.0, shift_x_m=5.0, shift_y_m=-7.0, rotation_deg=90.0)
        dx, dy = field.at(np.array([1000.0, 1010.0]), np.array([2000.0, 2000.0]))
        assert_allclose(dx, [5.0, 5.0 - 10.0])
        assert_allclose(dy, [-7.0, -7.0 + 10.0])

    def test_wave_stays_within_its_amplitude_and_scales_with_the_scene(self) -> None:
        rng = np.random.default_rng(0)
        settings_ = {"shift_m": (0.0, 0.0), "rotation_deg": 0.0, "wave_m": 12.0, "wavelength_m": 10_000.0}
        large = Grid.from_origin(UTM, 6e5, 5e6, 30.0, 1200, 1240)
        small = Grid.from_origin(UTM, 6e5, 5e6, 30.0, 100, 100)
        wide = TrueField.for_grid(large, **settings_, rng=rng)
        narrow = TrueField.for_grid(small, **settings_, rng=rng)
        x, y = large.xy(*np.mgrid[0:1200:20, 0:1240:20].astype(float))
        dx, dy = wide.at(x, y)
        assert 10.0 < np.abs(dx).max() <= 12.0
        assert 10.0 < np.abs(dy).max() <= 12.0
        assert narrow.wave_m == pytest.approx(12.0 * 1.5 * 3000.0 / 10_000.0)
        assert narrow.largest_m(small) >= max(np.abs(part).max() for part in narrow.at(*small.xy(50.0, 50.0)))

    def test_json_round_trip(self) -> None:
        field = TrueField(1.0, 2.0, 3.0, 4.0, 0.05, 6.0, (7.0, 8.0), (0.1, 0.2), (0.3, 0.4))
        assert TrueField.from_json({**field.to_json(), "phase_rad": [0.3, 0.4]}) == field


class TestTrainingScene:
    def test_sizes_and_repeatability(self) -> None:
        first, again, other = (training_scene(seed, (48, 96), 4) for seed in (1, 1, 2))
        assert first.grid.shape == (48, 96)
        cube = first.reflectance(default_prisma_bands(), first.grid.full)
        assert cube.shape == (234, 48, 96)
        assert 0.0 < cube.min() < cube.max() < 1.6
        assert_array_equal(cube, again.reflectance(default_prisma_bands(), again.grid.full))
        assert not np.array_equal(first.endmembers.reflectance, other.endmembers.reflectance)

    def test_varied_spectra_keep_their_kind(self) -> None:
        library = Endmembers.load()
        varied = vary_spectra(library, np.random.default_rng(3))
        assert varied.group == library.group
        for group in ("crop", "broadleaf"):
            red, infrared = varied.in_bands([665.0, 850.0], 20.0)[:, varied.of(group)]
            assert np.all(infrared > 2.0 * red)
        relative = np.abs(varied.reflectance / library.reflectance - 1.0)
        assert 0.02 < np.median(relative) < 0.4

    @pytest.mark.parametrize(("size", "ratio"), [(50, 3), ((48, 47), 4), (8, 2)])
    def test_bad_sizes_are_refused(self, size: int | tuple[int, int], ratio: int) -> None:
        with pytest.raises(UsageError, match="multiples of the ratio"):
            training_scene(0, size, ratio)
