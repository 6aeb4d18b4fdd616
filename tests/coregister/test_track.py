"""Distortions of a camera that draws an image line by line: found in any direction, and known where nothing is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.coregister.fit import choose_field
from hsfuse.coregister.models import Points
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.splines import PolynomialSpline
from hsfuse.coregister.trend import Track, interpolating
from hsfuse.grid import Grid

SIDE = 400
GRID = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 30.0, SIDE, SIDE)
SPLINE = Spline.over(SIDE, SIDE, 40.0, GRID)
EVERYWHERE = np.stack(np.meshgrid(np.arange(0.0, SIDE, 8), np.arange(0.0, SIDE, 8), indexing="ij"), -1).reshape(-1, 2)


def swaying(position: NDArray[np.float64], angle_deg: float) -> NDArray[np.float64]:
    """Displacement that changes along one direction only, after a rotation of the image."""
    along = position @ np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    wave = 0.4 * np.stack([np.cos(along / 45.0), np.sin(along / 60.0)], axis=1)
    return np.asarray(wave + (position - SIDE / 2) @ np.array([[0.0, 8e-4], [-8e-4, 0.0]]))


def seen(seed: int, sigma: float = 0.03) -> Points:
    """Noise at points on the left 45 % of an image."""
    row, col = (v.ravel().astype(float) for v in np.meshgrid(np.arange(10, SIDE, 20), np.arange(10, 180, 20)))
    position = np.stack([row, col], axis=1)
    noise = np.random.default_rng(seed).normal(0.0, sigma, position.shape)
    return Points(position, noise, np.full(len(position), sigma), 1.0, 20.0, 64.0)


@pytest.mark.parametrize("angle_deg", [0.0, 12.0, -30.0])
def test_what_sways_along_the_track_is_known_beside_the_land(angle_deg: float) -> None:
    points = seen(3)
    points = replace(points, value=points.value + swaying(points.position, angle_deg))
    choice = choose_field(points, SPLINE)
    error = choice.fitted.at(EVERYWHERE) - swaying(EVERYWHERE, angle_deg)
    plain = PolynomialSpline(SPLINE).fit(points, choice.weight, 0.01 * SPLINE.unit_smoothing(points))
    before = plain.at(EVERYWHERE) - swaying(EVERYWHERE, angle_deg)
    # A slanting track has lines that do not meet the land at all.
    share = 0.5 if angle_deg == 0.0 else 0.75
    assert np.sqrt((error**2).mean()) < share * np.sqrt((before**2).mean())


def test_bends_in_all_directions_are_not_taken_for_a_track() -> None:
    rng = np.random.default_rng(1)
    angle, phase, length = (
        rng.uniform(0.0, 6.28, (2, 14)),
        rng.uniform(0.0, 6.28, (2, 14)),
        rng.uniform(40, 90, (2, 14)),
    )

    def irregular(position: NDArray[np.float64]) -> NDArray[np.float64]:
        along = position[:, :1, None] * np.cos(angle) + position[:, 1:, None] * np.sin(angle)
        return np.asarray(0.2 * np.cos(along / length + phase).sum(axis=2))

    points = seen(5)
    points = replace(points, value=points.value + irregular(points.position))
    choice = choose_field(points, SPLINE)
    plain = min((name for name in choice.scores if name.startswith("spline")), key=choice.scores.__getitem__)
    fitted = PolynomialSpline(SPLINE).fit(points, choice.weight, float(plain[7:]) * SPLINE.unit_smoothing(points))
    land = EVERYWHERE[EVERYWHERE[:, 1] < 180]
    error, before = (np.sqrt(((f.at(land) - irregular(land)) ** 2).mean()) for f in (choice.fitted, fitted))
    assert error < 1.15 * before


def test_a_field_along_a_track_in_metres_is_the_one_in_pixels() -> None:
    points = seen(7)
    points = replace(points, value=points.value + swaying(points.position, 20.0))
    model = PolynomialSpline(SPLINE, Track(SIDE, SIDE, 40.0, np.radians(20.0), 0.1 * SPLINE.unit_smoothing(points)))
    weight = np.ones(points.size)
    fitted = model.fit(points, weight, 10.0 * SPLINE.unit_smoothing(points))
    dx, dy = fitted.to_field(GRID).at(*GRID.xy(EVERYWHERE[:, 0], EVERYWHERE[:, 1]))
    inside = fitted.at(EVERYWHERE)
    assert dx == pytest.approx(30.0 * inside[:, 1], abs=0.15)
    assert dy == pytest.approx(-30.0 * inside[:, 0], abs=0.15)
    influence, prior_variance = fitted.influence(points, weight, EVERYWHERE)
    assert influence @ points.value == pytest.approx(inside, abs=1e-6)
    far, near = (prior_variance[mask].mean() for mask in (EVERYWHERE[:, 1] > 300, EVERYWHERE[:, 1] < 180))
    assert far > near > -1e-9


def test_splines_through_values_at_their_knots() -> None:
    coefficients = np.random.default_rng(2).normal(size=(24, 3))
    values = (np.roll(coefficients, 1, 0) + 4.0 * coefficients + np.roll(coefficients, -1, 0)) / 6.0
    assert interpolating(values)[8:-8] == pytest.approx(coefficients[8:-8], abs=1e-4)
