"""The displacement field: where it points, how it ends, how it is inverted and stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy.interpolate import BSpline

from hsfuse.coregister.field import DisplacementField, Lattice
from hsfuse.errors import InputError
from hsfuse.grid import Grid

UTM = CRS.from_epsg(32632)


def wavy_field(seed: int = 0, size: float = 12.0) -> DisplacementField:
    rng = np.random.default_rng(seed)
    lattice = Lattice(500_000.0, 5_000_000.0, 1200.0, rng.normal(0, size, (2, 12, 14)))
    affine = np.array([[83.0, 1e-4, 8e-4], [-47.0, -8e-4, 2e-4]])
    return DisplacementField(affine, (508_000.0, 4_993_000.0), lattice, UTM, "spline")


def test_spline_agrees_with_scipy():
    field = wavy_field()
    assert field.spline is not None
    rng = np.random.default_rng(1)
    x, y = 500_000 + rng.uniform(0, 13 * 1200, 200), 5_000_000 - rng.uniform(0, 11 * 1200, 200)
    u, v = (x - 500_000) / 1200, (5_000_000 - y) / 1200
    basis_x = BSpline(np.arange(-2, 16), np.eye(14), 3, extrapolate=False)
    basis_y = BSpline(np.arange(-2, 14), np.eye(12), 3, extrapolate=False)
    inside = (u > 1) & (u < 12) & (v > 1) & (v < 10)
    expected = np.einsum("cij,ni,nj->cn", field.spline.coefficients, basis_y(v[inside]), basis_x(u[inside]))
    assert np.allclose(field.spline.at(x[inside], y[inside]), expected, atol=1e-9)


def test_becomes_affine_beyond_the_data():
    field = wavy_field()
    far_x = np.array([500_000.0 - 2.01 * 1200, 500_000 + 15.01 * 1200, 400_000.0, np.float64(9e6)])
    dx, dy = field.at(far_x, np.full(4, 4_995_000.0))
    bare = DisplacementField(field.affine, field.centre, None, UTM)
    assert np.allclose(np.stack([dx, dy]), np.stack(bare.at(far_x, np.full(4, 4_995_000.0))), atol=1e-9)


def test_is_continuous_at_the_edge_of_the_lattice():
    field = wavy_field()
    x = np.linspace(495_000, 525_000, 30_001)
    dx, _ = field.at(x, np.full(x.size, 4_999_000.0))
    assert np.abs(np.diff(dx)).max() < 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 40))
def test_claimed_positions_invert_the_field(seed, size):
    field = wavy_field(seed, size)
    rng = np.random.default_rng(seed)
    x, y = 500_000 + rng.uniform(-3000, 19_000, 50), 5_000_000 - rng.uniform(-3000, 16_000, 50)
    qx, qy = field.claimed(x, y)
    dx, dy = field.at(qx, qy)
    assert np.hypot(qx + dx - x, qy + dy - y).max() < 1e-3


def test_survives_json():
    field = wavy_field()
    again = DisplacementField.from_json(json.loads(json.dumps(field.to_json())))
    x, y = np.array([503_210.0, 512_345.0]), np.array([4_996_000.0, 4_990_000.0])
    assert np.array_equal(np.stack(again.at(x, y)), np.stack(field.at(x, y)))
    assert again.crs == field.crs
    assert again.model == "spline"


def test_zero_and_shift():
    x = np.arange(6.0).reshape(2, 3)
    assert not np.any(DisplacementField.zero().at(x, x))
    dx, dy = DisplacementField.zero().shifted(3.0, -2.0).at(x, x)
    assert dx.shape == (2, 3)
    assert (dx == 3).all()
    assert (dy == -2).all()
    qx, qy = DisplacementField.shift(3.0, -2.0).claimed(x, x)
    assert np.array_equal(qx, x - 3)
    assert np.array_equal(qy, x + 2)


def test_image_of_the_field_holds_its_values():
    grid = Grid.from_origin(UTM, 500_000, 5_000_000, 300.0, 7, 9)
    field = wavy_field()
    image = field.on_grid(grid)
    dx, dy = field.at(*grid.xy(3.0, 5.0))
    assert image.shape == (2, 7, 9)
    assert image[:, 3, 5] == pytest.approx([float(dx), float(dy)], rel=1e-6)
    # Also far beyond the lattice, where the spline has died out.
    wide = Grid.from_origin(UTM, 480_000, 5_020_000, 1700.0, 37, 41)
    rows, cols = np.meshgrid(np.arange(37.0), np.arange(41.0), indexing="ij")
    expected = np.stack(field.at(*wide.xy(rows, cols)))
    assert field.on_grid(wide) == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_refuses_nonsense():
    with pytest.raises(InputError):
        DisplacementField(np.full((2, 3), np.nan))
