"""``hsfuse.fuse``: arrays as they come out of somebody's program."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import hsfuse
from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import HsfuseError, OverlapError
from hsfuse.workflows.fuse_arrays import FusedArrays

METHODS = ("bicubic", "gsa", "glp", "cnmf")
USUAL = "glp standard"
"""The one case here with the default quality, which takes longer."""


def _pair(bands: int = 12, side: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HSI, MSI and truth of three materials."""
    rng = np.random.default_rng(seed)
    base = np.array([gaussian_filter(plane, 1.5) for plane in rng.random((3, 3 * side, 3 * side))])
    base = (base - base.mean(axis=(1, 2), keepdims=True)) / base.std() * 0.05 + 0.2
    both = np.tensordot(rng.random((bands + 4, 3)), base, axes=1).astype(np.float32)
    truth, msi = both[:bands], np.ascontiguousarray(both[bands:])
    return lowpass_decimate_array(truth, 3, Psf(1.0)), msi, truth


def _fuse(hsi: Any, msi: Any, method: str = "glp", **options: Any) -> np.ndarray:
    """Fuse; a method is named alone, which is fast, or with its quality."""
    nm = np.linspace(450.0, 900.0, len(hsi)) if len(hsi) > 1 else [600.0]
    name, _, quality = method.partition(" ")
    usual = {"ratio": 3, "method": name, "quality": quality or "plain", "wavelengths_nm": nm}
    return hsfuse.fuse(hsi, msi, **(usual | options))


def _error(cube: np.ndarray, truth: np.ndarray) -> float:
    known = np.isfinite(cube)
    return float(np.sqrt(np.mean((cube - truth)[known] ** 2)))


@pytest.mark.parametrize(
    ("value", "method"),
    [*itertools.product([np.nan, np.inf, -np.inf, -9999.0], METHODS), (np.nan, USUAL), (-32768.0, USUAL)],
)
def test_one_value_that_is_no_number_costs_its_pixel_only(value: float, method: str) -> None:
    hsi, msi, truth = _pair()
    clean = _error(_fuse(hsi, msi, method), truth)
    broken = msi.copy()
    broken[1, 20, 21] = value
    cube = _fuse(hsi, broken, method)
    assert np.isnan(cube[:, 20, 21]).all()
    assert np.isnan(cube).sum() == len(cube)
    assert _error(cube, truth) < max(1.15 * clean, 1e-3)
    broken = hsi.copy()
    broken[2, 5, 6] = value
    cube = _fuse(broken, msi, method)
    assert np.isnan(cube).sum() == 9
    assert _error(cube, truth) < max(1.15 * clean, 1e-3)


@pytest.mark.parametrize(("value", "method"), itertools.product([1e6, -1e6, 300.0], ["glp", USUAL]))
def test_a_few_values_far_beyond_all_others_count_as_missing(
    value: float, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a dead detector or a division by nearly nothing: they cost all of the scene up to 80 dB."""
    hsi, msi, truth = _pair()
    clean = _error(_fuse(hsi, msi, method), truth)
    wild_msi, wild_hsi = msi.copy(), hsi.copy()
    wild_msi[1, 20, 21] = wild_hsi[:, 5, 6] = value
    for low, high, missing in ((hsi, wild_msi, 1), (wild_hsi, msi, 9)):
        cube = _fuse(low, high, method)
        assert np.isnan(cube).all(axis=0).sum() == missing
        assert _error(cube, truth) < max(1.15 * clean, 1e-3)
    assert "times what is usual in it; they count as missing" in caplog.text


def test_masks_of_masked_arrays_count() -> None:
    hsi, msi, _ = _pair()
    masked = np.ma.masked_array(msi, mask=np.zeros(msi.shape, bool))
    masked[:, :9, :9] = np.ma.masked
    assert np.isnan(_fuse(hsi, masked)[:, :9, :9]).all()
    assert np.isfinite(_fuse(hsi, masked)[:, 9:, 9:]).all()
    assert msi[0, 0, 0] == masked.data[0, 0, 0], "the caller's array was changed"
    low = np.ma.masked_array(hsi, mask=hsi > hsi.max() - 1e-6)
    assert np.isnan(_fuse(low, msi)).sum() == 9 * low.mask.sum()


@pytest.mark.parametrize("method", ["gsa", "glp", "cnmf", USUAL])
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_with_few_bands_no_method_is_worse_than_interpolation(
    method: str, bands: int, caplog: pytest.LogCaptureFixture
) -> None:
    ratios = []
    for seed in range(2):
        hsi, msi, truth = _pair(bands, 24, seed)
        caplog.clear()
        error, plain = (_error(_fuse(hsi, msi, name), truth) for name in (method, "bicubic"))
        ratios.append(error / plain)
        assert ("interpolated" in caplog.text) is (error == plain)
    assert max(ratios) <= 1.001


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (2, 3), (5, 5)])
@pytest.mark.parametrize("method", [*METHODS, USUAL])
def test_tiny_scenes_are_interpolated_and_it_is_said(
    method: str, shape: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    hsi, msi, _ = _pair(12, 24)
    hsi, msi = hsi[:, : shape[0], : shape[1]], msi[:, : 3 * shape[0], : 3 * shape[1]]
    np.testing.assert_array_equal(_fuse(hsi, msi, method), _fuse(hsi, msi, "bicubic"))
    assert ("interpolated" in caplog.text) is (method != "bicubic")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"srf": np.full((4, 12), np.nan)}, "SRF"),
        ({"srf": -np.ones((4, 12))}, "SRF"),
        ({"srf": np.zeros((4, 12))}, "SRF"),
        ({"srf": np.ones((3, 12))}, "SRF"),
        ({"overlap": -2}, "overlap"),
        ({"tile": 0}, "tile"),
        ({"tile": 30.5}, "tile"),
        ({"seed": -1}, "seed"),
        ({"psf_fwhm": 0.0}, "PSF"),
        ({"psf_fwhm": float("nan")}, "PSF"),
        ({"ratio": "3"}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": 4}, "ratio 4"),
        ({"wavelengths_nm": np.full(12, np.nan)}, "wavelengths"),
        ({"wavelengths_nm": np.linspace(450, 900, 11)}, "11 wavelengths"),
        ({"fwhm_nm": np.full(12, -1.0)}, "widths"),
        ({"hsi": np.full((12, 16, 16), 1e30)}, "1e\\+30"),
        ({"hsi": np.full((12, 16, 16), np.nan)}, "valid"),
        ({"hsi": np.zeros((12, 16))}, "HSI"),
        ({"msi": np.zeros((0, 48, 48))}, "MSI"),
        ({"hsi": np.ones((12, 16, 16), complex)}, "real numbers"),
        ({"msi": np.full((4, 48, 48), "a")}, "real numbers"),
        ({"method": "none"}, "none"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(change: dict[str, Any], text: str) -> None:
    hsi, msi, _ = _pair()
    options = {"hsi": hsi, "msi": msi} | change
    with pytest.raises((HsfuseError, TypeError, ValueError), match=text):
        _fuse(options.pop("hsi"), options.pop("msi"), **options)


def test_the_default_is_standard_and_tells_what_it_knows() -> None:
    hsi, msi, _ = _pair()
    nm = np.linspace(450.0, 900.0, len(hsi))
    usual, told, plain = (
        hsfuse.fuse(hsi, msi, ratio=3, wavelengths_nm=nm, **options)
        for options in ({}, {"quality": "standard", "full_output": True}, {"quality": "plain"})
    )
    np.testing.assert_array_equal(usual, told.cube)
    assert usual.shape == plain.shape
    assert not np.array_equal(usual, plain)
    assert told.record["method"]["refinement"]["used"] in ("map", "clean")
    for options in ({"quality": "plain"}, {"method": "bicubic"}):
        with pytest.raises(HsfuseError, match="full_output needs"):
            hsfuse.fuse(hsi, msi, ratio=3, wavelengths_nm=nm, full_output=True, **options)


def test_nothing_valid_is_no_fall_back() -> None:
    hsi, msi, _ = _pair()
    with pytest.raises(OverlapError):
        _fuse(hsi, np.full_like(msi, np.nan), "bicubic")


@pytest.mark.parametrize("off", [(2, 0), (-1, 3)])
def test_an_hsi_that_lies_pixels_off_is_moved_and_that_is_said(
    off: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    hsi, msi, truth = _pair(side=24)
    lying = np.roll(hsi, (-off[0], -off[1]), axis=(1, 2))
    moved = hsfuse.fuse(
        lying, msi, ratio=3, quality="fast", full_output=True, wavelengths_nm=np.linspace(450.0, 900.0, len(hsi))
    )
    assert isinstance(moved, FusedArrays)
    assert moved.record["moved_px"] == list(off)
    assert f"{off[0]:+d} and {off[1]:+d} of its pixels" in caplog.text
    inside = slice(12, -12)
    aligned = _fuse(hsi, msi, "glp fast")
    assert _error(moved.cube[:, inside, inside], truth[:, inside, inside]) < 1.5 * _error(
        aligned[:, inside, inside], truth[:, inside, inside]
    )
    missing = np.isnan(moved.cube).any(axis=0).mean()
    assert 0.0 < missing < 0.3, "what the HSI does not show has no data"


def test_an_hsi_at_its_place_is_not_moved(caplog: pytest.LogCaptureFixture) -> None:
    hsi, msi, _ = _pair(side=24)
    msi = msi.copy()
    msi[:, :36] = _pair(side=24, seed=5)[1][:, :36]
    for guide in (msi, _pair(side=24, seed=7)[1]):
        _fuse(hsi, guide, "glp fast")
    assert "off the MSI" not in caplog.text


def test_a_given_blur_takes_arrays_as_they_lie(caplog: pytest.LogCaptureFixture) -> None:
    hsi, msi, _ = _pair(side=24)
    _fuse(np.roll(hsi, 2, axis=1), msi, "glp fast", psf_fwhm=1.0)
    assert "off the MSI" not in caplog.text
