"""The response of a guide, found by regression on the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hsfuse.degrade.response_estimation import estimate_response
from hsfuse.sensors.prisma import pan_response
from hsfuse.simulate.hyperspectral_sensor import PAN_RESPONSE
from hsfuse.spectral import BandTable, srf_weights

BANDS = BandTable.make(np.arange(400.0, 1050.0, 10.0), np.full(65, 11.0))


def scene(seed: int, *, colours: int, pixels: int = 4000) -> np.ndarray:
    """Smooth random spectra, (band, pixel); with one colour, pixels differ in brightness only."""
    rng = np.random.default_rng(seed)
    nm = BANDS.centre_nm
    knots = rng.uniform(0.05, 0.6, (colours, 9))
    spectra = np.stack([np.interp(nm, np.linspace(400.0, 1050.0, 9), one) for one in knots], axis=1)
    shares = rng.dirichlet(np.full(colours, 0.5), pixels).T * rng.uniform(0.5, 1.2, pixels)
    return spectra @ shares + 0.001 * rng.standard_normal((nm.size, pixels))


def test_finds_the_true_response_and_says_how_much_better_it_is() -> None:
    cube = scene(0, colours=12)
    guide = srf_weights(BANDS, [PAN_RESPONSE])[0] @ cube * 1.04 + 0.003
    found = estimate_response(cube, guide, BANDS, name="PAN", nominal=pan_response())
    assert found is not None
    assert found.measured
    assert found.explained_nominal is not None
    assert found.explained > 0.999 > found.explained_nominal
    assert found.response.centre_nm == pytest.approx(PAN_RESPONSE.centre_nm, abs=4.0)
    low, high = found.response.range_nm
    true_low, true_high = PAN_RESPONSE.range_nm
    assert low == pytest.approx(true_low, abs=30.0)
    assert high == pytest.approx(true_high, abs=20.0)


def test_keeps_the_nominal_response_where_the_scene_has_no_colours() -> None:
    cube = scene(1, colours=1)
    guide = srf_weights(BANDS, [PAN_RESPONSE])[0] @ cube
    found = estimate_response(cube, guide, BANDS, name="PAN", nominal=pan_response())
    assert found is not None
    assert not found.measured
    assert found.response.assumed


def test_knows_nothing_without_pixels_or_optical_bands() -> None:
    cube = scene(2, colours=5, pixels=100)
    assert estimate_response(cube, cube[3], BANDS, name="PAN") is None
    swir = replace(BANDS, centre_nm=BANDS.centre_nm + 1000.0)
    assert estimate_response(scene(3, colours=5), np.ones(4000), swir, name="PAN") is None
