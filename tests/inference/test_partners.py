"""Further dates of the guide in a fusion: less noise everywhere, detail where the guide shows other ground."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import shift

import hsfuse
from hsfuse.errors import UsageError
from hsfuse.workflows.fuse_arrays import FusedArrays

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, Pair, make_pair, psnr

FloatCube = NDArray[np.float32]
PARCEL = (slice(30, 57), slice(42, 69))


def _other_ground(clean: FloatCube) -> FloatCube:
    out = clean.copy()
    out[:, *PARCEL] = clean[:, 3:30, 80:107]
    return out


def _date(ground: FloatCube, seed: int) -> FloatCube:
    return (ground + 0.004 * np.random.default_rng([seed, 3]).standard_normal(ground.shape)).astype(np.float32)


def _fuse(pair: Pair, *partners: FloatCube) -> FusedArrays:
    found = hsfuse.fuse(
        pair.hsi, pair.msi, ratio=RATIO, wavelengths_nm=pair.centre_nm, srf=pair.srf, psf_fwhm=1.0, full_output=True,
        partners=partners,
    )  # fmt: skip
    assert isinstance(found, FusedArrays)
    return found


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair((36, 40))


@pytest.fixture(scope="module")
def alone(pair: Pair) -> FloatCube:
    return _fuse(pair).cube


def test_a_partner_takes_noise_out_and_says_so(pair: Pair, alone: FloatCube) -> None:
    found = _fuse(pair, _date(1.05 * pair.clean_msi + 0.01, 1))
    assert psnr(pair.truth, found.cube) > psnr(pair.truth, alone) + 0.1
    (record,) = found.record["partners"]
    assert record["used"]
    assert record["shown_share"] == pytest.approx(1.0, abs=0.02)
    assert record["noise_left"] < 0.75


def test_without_partners_nothing_is_said(pair: Pair) -> None:
    assert "partners" not in _fuse(pair).record


def test_another_place_changes_nothing(pair: Pair, alone: FloatCube, caplog: pytest.LogCaptureFixture) -> None:
    found = _fuse(pair, _date(make_pair((36, 40), seed=8).clean_msi, 1))
    np.testing.assert_array_equal(found.cube, alone)
    assert not found.record["partners"][0]["used"]
    assert "partner 1 shows too little of the ground" in caplog.text


def test_where_the_guide_shows_other_ground_the_partner_lends_its_detail() -> None:
    pair = make_pair((36, 40), change=_other_ground)
    alone, found = _fuse(pair), _fuse(pair, _date(pair.clean_msi, 1))

    def error(cube: FloatCube) -> float:
        return float(((cube - pair.truth)[:, *PARCEL] ** 2).mean())

    assert error(found.cube) < 0.6 * error(alone.cube)
    assert found.record["partners"][0]["replaced_share"] > 0.02
    assert found.record["hsi_only_share"] < alone.record["hsi_only_share"]


def test_a_partner_with_the_same_other_ground_lends_nothing() -> None:
    pair = make_pair((36, 40), change=_other_ground)
    alone, found = _fuse(pair), _fuse(pair, _date(_other_ground(pair.clean_msi), 1))
    assert psnr(pair.truth, found.cube) > psnr(pair.truth, alone.cube) - 0.02
    assert found.record["partners"][0]["replaced_share"] < 0.005


def test_clouds_of_a_partner_are_gaps(pair: Pair, alone: FloatCube) -> None:
    other = _date(pair.clean_msi, 1)
    other[:, :60] = np.nan
    found = _fuse(pair, other)
    assert found.record["partners"][0]["shown_share"] == pytest.approx(0.44, abs=0.03)
    assert psnr(pair.truth, found.cube) > psnr(pair.truth, alone)


def test_tiles_make_no_difference(pair: Pair) -> None:
    other = _date(pair.clean_msi, 1)
    common = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "srf": pair.srf, "psf_fwhm": 1.0, "partners": [other]}
    whole = hsfuse.fuse(pair.hsi, pair.msi, **common)
    tiled = hsfuse.fuse(pair.hsi, pair.msi, tile=48, **common)
    np.testing.assert_allclose(tiled, whole, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"partners": [np.ones((4, 3, 3), np.float32)]}, "shape"), ({"quality": "plain"}, "quality")],
)
def test_what_cannot_be_meant_is_refused(pair: Pair, change: dict[str, object], words: str) -> None:
    given = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "partners": [pair.msi]} | change
    with pytest.raises(UsageError, match=words):
        hsfuse.fuse(pair.hsi, pair.msi, **given)


@pytest.mark.parametrize(
    "repeated",
    [
        lambda guide: guide,
        lambda guide: 1.08 * guide - 0.01,
        lambda guide: np.round(1e4 * guide).astype(np.uint16),
        lambda guide: shift(guide, (0, 0.3, 0.3), order=3, mode="nearest"),
    ],
    ids=["itself", "in other light", "in whole numbers", "resampled"],
)
def test_the_guide_given_twice_takes_out_no_noise(
    pair: Pair, alone: FloatCube, repeated: Callable[[FloatCube], FloatCube], caplog: pytest.LogCaptureFixture
) -> None:
    found = _fuse(pair, repeated(pair.msi))
    (record,) = found.record["partners"]
    assert not record["used"]
    assert record["noise_left"] == 1.0
    assert "repeats the measurement of the guide" in record["refused"]
    assert "repeats the measurement of the guide" in caplog.text
    np.testing.assert_array_equal(found.cube, alone)


def test_a_partner_given_twice_counts_once(pair: Pair) -> None:
    once, other = _date(pair.clean_msi, 1), _date(pair.clean_msi, 2)
    found = _fuse(pair, once, 0.95 * once, other)
    assert [record["used"] for record in found.record["partners"]] == [True, False, True]
    np.testing.assert_array_equal(found.cube, _fuse(pair, once, other).cube)


def test_units_of_a_partner_do_not_matter(pair: Pair) -> None:
    other = _date(pair.clean_msi, 1)
    same, scaled = _fuse(pair, other), _fuse(pair, np.round(1e4 * other).astype(np.uint16))
    assert scaled.record["partners"][0]["noise_left"] == pytest.approx(
        same.record["partners"][0]["noise_left"], abs=0.01
    )
    np.testing.assert_allclose(scaled.cube, same.cube, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.2, np.nan])
def test_a_partner_that_shows_nothing_is_not_used(pair: Pair, alone: FloatCube, value: float) -> None:
    found = _fuse(pair, np.full_like(pair.msi, value))
    assert not found.record["partners"][0]["used"]
    np.testing.assert_array_equal(found.cube, alone)


def test_a_scene_too_small_to_measure_noise_says_so() -> None:
    small = make_pair((8, 8))
    (record,) = _fuse(small, _date(small.clean_msi, 1)).record["partners"]
    assert not record["used"]
    assert "too small" in record["refused"]


def _labelled(values: FloatCube) -> xr.DataArray:
    coordinates = {
        "y": 5e6 - 10.0 * np.arange(values.shape[1]), "x": 5e5 + 10.0 * np.arange(values.shape[2]),
        "wavelength": ("band", np.arange(len(values)) * 60.0 + 490.0),
    }  # fmt: skip
    return xr.DataArray(values, coordinates, ("band", "y", "x"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image.assign_coords(x=image.x + 400.0), "lies elsewhere"),
        (lambda image: image.isel(y=slice(None, None, -1)), "lies elsewhere"),
        (lambda image: image.isel(band=slice(None, None, -1)), "another order"),
        (lambda image: image.expand_dims("time"), "partner 1 has the dimensions"),
    ],
    ids=["elsewhere", "upside down", "bands", "time"],
)
def test_labels_of_a_partner_are_believed(
    pair: Pair, change: Callable[[xr.DataArray], xr.DataArray], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        hsfuse.fuse(
            pair.hsi, _labelled(pair.msi), ratio=RATIO, wavelengths_nm=pair.centre_nm,
            partners=[change(_labelled(_date(pair.clean_msi, 1)))],
        )  # fmt: skip


def test_a_single_image_is_no_list_of_partners(pair: Pair) -> None:
    with pytest.raises(UsageError, match="must be a list"):
        hsfuse.fuse(pair.hsi, pair.msi, ratio=RATIO, wavelengths_nm=pair.centre_nm, partners=_date(pair.clean_msi, 1))
