"""Pairs of different days: what differs is known, and the default pair is as it was."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS

from hsfuse.grid import Grid
from hsfuse.simulate.other_day import (
    CHANGED_LIGHT,
    CHANGED_PARCEL,
    HAZE,
    MISSED_CLOUD,
    cast_shadow,
    sun_position,
    sunlight,
)
from hsfuse.simulate.products import SimulatedPair, SimulationConfig, simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.true_field import TrueField

SMALL = {"vnir_bands": 6, "swir_bands": 6, "pan": False, "s2_bands": "10m", "footprint_deg": 0.0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    folder = tmp_path_factory.mktemp("other_day")
    return simulate_pair(folder, size_px=(60, 64), seed=2, days_apart=60, relief_m=500.0, **SMALL)


def test_the_truth_tells_what_differs_and_why(pair: SimulatedPair) -> None:
    truth = Truth.load(pair.truth)
    assert truth.change is not None
    assert truth.height_m is not None
    shares = [float(((truth.change & bit) > 0).mean()) for bit in (CHANGED_PARCEL, CHANGED_LIGHT, MISSED_CLOUD, HAZE)]
    assert all(0.0 < share < 0.6 for share in shares), shares
    assert np.quantile(truth.height_m, 0.95) - np.quantile(truth.height_m, 0.05) == pytest.approx(500.0, rel=0.01)


def test_the_saved_field_holds_parallax_and_jitter(pair: SimulatedPair) -> None:
    truth = Truth.load(pair.truth)
    assert truth.field is not None
    rows, cols = np.meshgrid(np.arange(20.0, 180.0, 7.0), np.arange(20.0, 180.0, 7.0))
    x, y = truth.grid.xy(rows, cols)
    found, written = np.stack(truth.field.at(x, y)), np.stack(pair.field.at(x, y))
    np.testing.assert_allclose(found, written, atol=1e-6)
    flat = TrueField.from_json(truth.field.to_json())
    parallax = np.hypot(*(found - np.stack(flat.at(x, y))))
    assert 2.0 < parallax.std() < 60.0, "the relief displaces nothing"
    assert truth.field.jitter_m == 3.0


def test_the_guide_is_of_the_other_day(pair: SimulatedPair) -> None:
    assert pair.config.guide_start.date().isoformat() == "2024-08-20"
    assert "20240820" in pair.sentinel2.name


def test_a_pair_of_one_day_is_flat_and_unchanged(tmp_path: Path) -> None:
    plain = simulate_pair(tmp_path, size_px=(40, 40), seed=2, **SMALL)
    truth = Truth.load(plain.truth)
    assert truth.change is None
    assert truth.height_m is None
    assert truth.field is not None
    assert truth.field.jitter_m == 0.0
    assert SimulationConfig().guide_start == SimulationConfig().s2_start


def test_the_sun_stands_where_it_does() -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 500_000.0, 5_000_000.0, 30.0, 10, 10)
    # Solar noon of 9 degrees east on a day without declination, 45.1 degrees north.
    elevation, azimuth = sun_position(grid, datetime(2024, 3, 21, 11, 31, tzinfo=UTC))
    assert elevation == pytest.approx(90.0 - 45.1, abs=1.0)
    assert azimuth == pytest.approx(180.0, abs=2.0)
    morning, east = sun_position(grid, datetime(2024, 6, 21, 7, 0, tzinfo=UTC))
    assert 20.0 < morning < 45.0
    assert 60.0 < east < 110.0


def test_a_wall_shades_what_lies_away_from_the_sun() -> None:
    height = np.zeros((40, 40), np.float32)
    height[20, 10:30] = 50.0
    # The sun stands in the south: 50 m of wall throw 87 m of shadow to the north.
    hidden = cast_shadow(height, 10.0, 30.0, 180.0)
    assert hidden[12:20, 20].all()
    assert not hidden[:11].any()
    assert not hidden[21:].any()
    light = sunlight(height, 10.0, 30.0, 180.0)
    assert light[15, 20] == pytest.approx(0.2)
    assert light[35, 35] == pytest.approx(1.0)
