from __future__ import annotations

import json

import numpy as np
import pytest
import spectral
from hypothesis import given, settings
from hypothesis import strategies as st
from qa_builders import CENTRE_NM, WATER_WINDOWS, spectrum

from hsfuse.errors import UsageError
from hsfuse.qa.pixels import PurePixel
from hsfuse.qa.plain import to_plain
from hsfuse.qa.plots import spectra_figure
from hsfuse.qa.spectra import band_runs, compare_pixels, compare_spectrum, spectral_angle_deg
from hsfuse.qa.surfaces import pure_pixel_sam_deg
from hsfuse.spectral import SpectralResponse

PIXEL = PurePixel("vegetation", 3, 4, 0.9)


def test_angle_of_known_vectors():
    assert spectral_angle_deg(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == pytest.approx(90.0)
    assert spectral_angle_deg(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(45.0)
    tiny = np.array([1.0, 1.0 + 1e-9])
    assert spectral_angle_deg(np.ones(2), tiny) == pytest.approx(np.degrees(1e-9 / 2), rel=1e-3)
    assert np.isnan(spectral_angle_deg(np.array([1.0, np.nan]), np.array([1.0, 1.0])))


@given(seed=st.integers(0, 10**6), gain=st.floats(0.01, 100.0))
@settings(max_examples=40, deadline=None)
def test_angle_agrees_with_spectral_python_and_ignores_brightness(seed, gain):
    a, b = np.random.default_rng(seed).uniform(0.01, 0.6, (2, 30))
    oracle = np.degrees(spectral.spectral_angles(a[None, None, :], b[None, :])[0, 0, 0])
    assert spectral_angle_deg(a, b) == pytest.approx(oracle, abs=1e-5)
    assert spectral_angle_deg(a, gain * b) == pytest.approx(oracle, abs=1e-5)


def test_runs_end_at_absorption_windows():
    runs = band_runs(CENTRE_NM, WATER_WINDOWS)
    assert runs[0].start == 0
    assert runs[-1].stop == CENTRE_NM.size
    for run in runs:
        centre = CENTRE_NM[run]
        assert np.diff(centre).max(initial=0.0) < 30
        for low, high in WATER_WINDOWS:
            assert not (centre.min() < low and centre.max() > high)
    # A narrow window that thinning alone would not explain breaks the line when it is named.
    fine = np.concatenate([np.arange(700.0, 757.0, 8.0), np.arange(773.0, 840.0, 8.0)])
    assert len(band_runs(fine)) == 1
    assert len(band_runs(fine, ((757.0, 772.0),))) == 2


@given(steps=st.lists(st.floats(1.0, 400.0), min_size=0, max_size=60))
@settings(max_examples=60, deadline=None)
def test_runs_cover_all_bands_once(steps):
    centre = 400.0 + np.cumsum([0.0, *steps])
    index = [i for run in band_runs(centre) for i in range(run.start, run.stop)]
    assert index == list(range(centre.size))


def test_an_unevenly_thinned_list_is_not_torn_apart():
    centre = np.cumsum([2000.0, 8, 25, 8, 8, 25, 17, 8, 30, 8, 8])
    assert len(band_runs(centre)) == 1


def test_mean_and_range_over_the_fused_pixels():
    truth = spectrum("vegetation")
    fused = truth[:, None, None] + np.linspace(-0.02, 0.02, 9).reshape(1, 3, 3)
    result = compare_spectrum(PIXEL, CENTRE_NM, truth, fused)
    np.testing.assert_allclose(result.fused_mean, truth, atol=1e-12)
    np.testing.assert_allclose(result.fused_high - result.fused_low, 0.04)
    assert result.rmse == pytest.approx(0.0, abs=1e-12)
    assert result.spectral_angle_deg == pytest.approx(0.0, abs=1e-6)


def test_reports_where_the_curves_part():
    truth = spectrum("soil")
    fused = np.repeat(np.repeat(truth[:, None, None], 3, 1), 3, 2)
    fused[7] -= 0.05
    result = compare_spectrum(PIXEL, CENTRE_NM, truth, fused)
    assert result.worst_nm == CENTRE_NM[7]
    assert result.worst_difference == pytest.approx(-0.05)
    assert result.rmse == pytest.approx(0.05 / np.sqrt(CENTRE_NM.size))
    assert result.bias == pytest.approx(-0.05 / CENTRE_NM.size)


def test_band_order_does_not_matter_and_nan_is_left_out():
    rng = np.random.default_rng(1)
    truth, fused = spectrum("soil"), spectrum("soil")[:, None, None] + rng.normal(0, 0.01, (CENTRE_NM.size, 3, 3))
    fused[4, 0, 0] = np.nan
    fused[5] = np.nan
    plain = compare_spectrum(PIXEL, CENTRE_NM, truth, fused)
    order = rng.permutation(CENTRE_NM.size)
    mixed = compare_spectrum(PIXEL, CENTRE_NM[order], truth[order], fused[order])
    np.testing.assert_array_equal(plain.fused_mean, mixed.fused_mean)
    assert np.isnan(plain.fused_mean[5])
    assert np.isfinite(plain.fused_mean[4])
    assert np.isfinite(plain.rmse)
    plain_json = to_plain(plain.to_json())
    assert plain_json["fused_mean"][5] is None
    json.dumps(plain_json, allow_nan=False)


def test_multispectral_points_carry_their_band_width():
    response = SpectralResponse.flat_top("B04", 665.0, 30.0)
    truth = spectrum("soil")
    msi = np.full((1, 3, 3), 0.2)
    msi[0, 0, 0] = np.nan
    result = compare_spectrum(PIXEL, CENTRE_NM, truth, truth[:, None, None], msi=msi, responses=[response])
    (point,) = result.msi
    assert point.name == "B04"
    assert point.reflectance == pytest.approx(0.2)
    assert (point.low_nm, point.high_nm) == pytest.approx((650.0, 680.0), abs=1.5)
    with pytest.raises(UsageError, match="2 spectral responses"):
        compare_spectrum(PIXEL, CENTRE_NM, truth, truth[:, None, None], msi=msi, responses=[response] * 2)


def test_wrong_shapes_are_named():
    with pytest.raises(UsageError, match="differ in shape"):
        compare_spectrum(PIXEL, CENTRE_NM, np.ones(3), np.ones((3, 3, 3)))


def test_pixels_are_read_at_full_resolution_and_numbered():
    ratio = 3
    fused = np.random.default_rng(0).uniform(0.1, 0.5, (CENTRE_NM.size, 30, 30))
    hsi = fused.reshape(CENTRE_NM.size, 10, ratio, 10, ratio).mean(axis=(2, 4))
    hsi[:, 9, 9] = np.nan
    pixels = [PurePixel("soil", 2, 3, 1.0), PurePixel("soil", 5, 1, 0.9), PurePixel("water", 9, 9, 0.5)]
    results = compare_pixels(
        pixels, CENTRE_NM, ratio=ratio, read_hsi=lambda b: hsi[:, *b.slices], read_fused=lambda b: fused[:, *b.slices]
    )
    assert [r.label for r in results] == ["soil 1", "soil 2"]
    for result in results:
        np.testing.assert_allclose(result.fused_mean, result.hsi)


def test_median_angle_leaves_water_and_mixed_pixels_out():
    good, bad = spectrum("soil"), spectrum("soil") + np.linspace(0, 0.2, CENTRE_NM.size)
    soil = compare_spectrum(PurePixel("soil", 0, 0, 1.0), CENTRE_NM, good, good[:, None, None])
    water = compare_spectrum(PurePixel("water", 0, 0, 1.0), CENTRE_NM, good, bad[:, None, None])
    assert pure_pixel_sam_deg([soil, water]) == pytest.approx(0.0, abs=1e-6)
    assert pure_pixel_sam_deg([water]) is None
    mixed = compare_spectrum(PurePixel("soil", 0, 0, 0.2), CENTRE_NM, good, bad[:, None, None])
    assert pure_pixel_sam_deg([soil, mixed]) == pytest.approx(0.0, abs=1e-6)


def test_no_line_is_drawn_across_dropped_bands():
    truth = spectrum("vegetation")
    noisy = truth[:, None, None] + np.random.default_rng(0).normal(0, 0.01, (truth.size, 3, 3))
    comparison = compare_spectrum(PIXEL, CENTRE_NM, truth, noisy)
    figure = spectra_figure([comparison], dropped_nm=WATER_WINDOWS)
    lines = [line for axes in figure.get_axes() for line in axes.get_lines() if line.get_transform().is_affine]
    curves = [np.asarray(line.get_xdata(), dtype=float) for line in lines if len(line.get_xdata()) > 2]
    assert curves
    for x in curves:
        for low, high in WATER_WINDOWS:
            assert not ((x < low).any() and (x > high).any())
    legend = [text.get_text() for axes in figure.get_axes() if axes.get_legend() for text in axes.get_legend().texts]
    assert any(f"SAM {comparison.spectral_angle_deg:.2f}°" in text for text in legend)
