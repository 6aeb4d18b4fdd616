"""Spectral responses: what they integrate to."""

from __future__ import annotations

import numpy as np
import pytest

from hsfuse.errors import InputError
from hsfuse.spectral import BandTable, SpectralResponse, srf_coverage, srf_weights

BANDS = BandTable.make(np.arange(400.0, 1000.0, 9.0), np.full(67, 11.0))
GREEN = SpectralResponse.flat_top("B03", 559.8, 34.8)


def test_weights_sum_to_one_and_sit_under_the_response() -> None:
    weights = srf_weights(BANDS, [GREEN, SpectralResponse.gaussian("B04", 664.6, 30.6)])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    centre = weights @ BANDS.centre_nm
    np.testing.assert_allclose(centre, [559.8, 664.6], atol=2.0)
    assert weights[0][np.abs(BANDS.centre_nm - 559.8) > 45].max() == 0.0


def test_weighted_bands_agree_with_direct_integration_of_a_smooth_spectrum() -> None:
    fine = np.arange(380.0, 1020.0)
    spectrum = 0.2 + 0.1 * np.sin(fine / 60.0)
    direct = np.trapezoid(GREEN.at(fine) * spectrum, fine) / np.trapezoid(GREEN.at(fine), fine)
    through_bands = srf_weights(BANDS, [GREEN])[0] @ np.interp(BANDS.centre_nm, fine, spectrum)
    assert through_bands == pytest.approx(direct, abs=1e-3)


def test_order_of_bands_does_not_matter() -> None:
    shuffled = np.random.default_rng(3).permutation(len(BANDS))
    np.testing.assert_allclose(srf_weights(BANDS.take(shuffled), [GREEN])[0], srf_weights(BANDS, [GREEN])[0][shuffled])


def test_a_response_without_bands_gets_zero_weights_and_coverage() -> None:
    swir = SpectralResponse.flat_top("B12", 2202.4, 173.6)
    assert srf_weights(BANDS, [swir]).sum() == 0.0
    assert srf_coverage(BANDS, swir) == 0.0
    assert srf_coverage(BANDS, GREEN) == pytest.approx(1.0)


@pytest.mark.parametrize("centre", [[], [np.nan, 500.0], [0.4, 0.5], [500.0, 90_000.0]])
def test_absurd_wavelengths_are_refused(centre: list[float]) -> None:
    with pytest.raises(InputError, match="not plausible"):
        BandTable.make(centre)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match="differ in length"):
        BandTable.make([500.0, 600.0], [10.0])


def test_names_carry_number_and_wavelength() -> None:
    assert BandTable.make([705.32]).names() == ["B001 705.3 nm"]
    assert list(BANDS.nearest([402.0, 990.0])) == [0, 66]


def test_bands_much_narrower_than_a_nanometre_still_count() -> None:
    narrow = BandTable.make(np.arange(500.0, 620.0, 7.3), np.full(17, 0.1))
    weights = srf_weights(narrow, [GREEN])
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1.0)
