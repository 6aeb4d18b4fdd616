"""One resampling: exact where it can be, close to the truth elsewhere, honest about missing samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import ndimage

from hsfuse.coregister.field import DisplacementField, Lattice
from hsfuse.coregister.warp import Resampler
from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D, reproject_xy

UTM = CRS.from_epsg(32632)
NEXT_ZONE = CRS.from_epsg(32633)
SOURCE = Grid.from_origin(UTM, 660_000, 5_000_000, 30, 60, 70)


def smooth_scene(x, y):
    """A band-limited landscape (wavelengths of 300 m and more, ten pixels)."""
    return (
        0.3 + 0.1 * np.sin(2 * np.pi * x / 400) * np.cos(2 * np.pi * y / 350) + 0.05 * np.cos(2 * np.pi * (x + y) / 300)
    )


def sampled(grid: Grid, bands: int = 3) -> np.ndarray:
    x, y = np.broadcast_arrays(*grid.xy(np.arange(grid.height)[:, None] * 1.0, np.arange(grid.width)[None, :] * 1.0))
    return np.stack([smooth_scene(x + 37 * b, y) for b in range(bands)]).astype(np.float32)


def warp(resampler: Resampler, cube: np.ndarray, block: Slice2D) -> np.ndarray:
    need = resampler.source_block(block)
    return resampler.apply(cube[(slice(None), *need.slices)], need, block)


def wave() -> DisplacementField:
    rng = np.random.default_rng(3)
    lattice = Lattice(SOURCE.bounds.left - 1000, SOURCE.bounds.top + 1000, 900.0, rng.normal(0, 10, (2, 6, 6)))
    return DisplacementField(np.array([[45.0, 1e-3, 0], [-70.0, 0, 1e-3]]), (661_000.0, 4_999_000.0), lattice, UTM)


def test_identical_grid_is_copied_bit_for_bit():
    rng = np.random.default_rng(0)
    cube = rng.random((4, *SOURCE.shape), dtype=np.float32)
    cube[0, 5:9, 3:20] = np.nan
    cube[:, 40:, 50:] = np.nan
    out = warp(Resampler(SOURCE, SOURCE, DisplacementField.zero()), cube, SOURCE.full)
    assert np.array_equal(out, cube, equal_nan=True)


def test_whole_pixel_shift_is_copied_bit_for_bit():
    rng = np.random.default_rng(0)
    cube = rng.random((2, *SOURCE.shape), dtype=np.float32)
    field = DisplacementField.shift(90.0, -60.0, UTM)  # the pixel at (row, col) sees (row + 2, col + 3)
    out = warp(Resampler(SOURCE, SOURCE, field), cube, SOURCE.full)
    assert np.array_equal(out[:, 2:, 3:], cube[:, :-2, :-3])
    assert np.isnan(out[:, :2]).all()
    assert np.isnan(out[:, :, :3]).all()


@pytest.mark.parametrize("crs", [UTM, NEXT_ZONE])
def test_field_and_map_zone_in_one_interpolation(crs):
    field = wave()
    # What the sensor recorded at its claimed positions is the ground at the true ones.
    x, y = np.broadcast_arrays(*SOURCE.xy(np.arange(60.0)[:, None], np.arange(70.0)[None, :]))
    dx, dy = field.at(x, y)
    cube = smooth_scene(x + dx, y + dy)[None].astype(np.float32)
    b = SOURCE.bounds_in(crs)
    target = Grid.from_origin(crs, b.left + 137, b.top - 111, 30, 55, 60)
    out = warp(Resampler(SOURCE, target, field), cube, target.full)[0]
    tx, ty = np.broadcast_arrays(*target.xy(np.arange(55.0)[:, None], np.arange(60.0)[None, :]))
    expected = smooth_scene(*reproject_xy(crs, UTM, tx, ty))
    assert np.isfinite(out).mean() > 0.8
    inner = ndimage.binary_erosion(np.isfinite(out), iterations=2)  # whole kernels only
    assert np.abs(out - expected)[inner].max() < 2e-3


@settings(max_examples=20, deadline=None)
@given(st.floats(-200, 200), st.floats(-200, 200))
def test_there_and_back_again(dx, dy):
    cube = sampled(SOURCE)
    there = warp(Resampler(SOURCE, SOURCE, DisplacementField.shift(dx, dy, UTM)), cube, SOURCE.full)
    back = warp(Resampler(SOURCE, SOURCE, DisplacementField.shift(-dx, -dy, UTM)), there, SOURCE.full)
    inner = back[:, 12:-12, 12:-12]
    assert np.isfinite(inner).all()
    assert np.abs(inner - cube[:, 12:-12, 12:-12]).max() < 5e-3


@settings(max_examples=10, deadline=None)
@given(st.integers(5, 60), st.integers(7, 70))
def test_blocks_give_what_the_whole_gives(rows, cols):
    cube = sampled(SOURCE, 2)
    cube[:, 20:30, 20:25] = np.nan
    resampler = Resampler(SOURCE, SOURCE, wave())
    whole = warp(resampler, cube, SOURCE.full)
    for row in range(0, 60, rows):
        for col in range(0, 70, cols):
            block = Slice2D(row, min(row + rows, 60), col, min(col + cols, 70))
            part = warp(resampler, cube, block)
            assert np.array_equal(part, whole[(slice(None), *block.slices)], equal_nan=True)


def test_missing_samples_stay_missing_in_their_own_band():
    cube = sampled(SOURCE)
    cube[1, 30, 30] = np.nan
    out = warp(Resampler(SOURCE, SOURCE, DisplacementField.shift(15.0, 15.0, UTM)), cube, SOURCE.full)
    assert np.isfinite(out[[0, 2], 5:-5, 5:-5]).all()
    missing = np.argwhere(np.isnan(out[1, 5:-5, 5:-5]))
    assert 4 <= len(missing) <= 8  # the four pixels whose inner taps are missing, not the sixteen of the kernel


def test_values_beside_a_gap_are_not_biased():
    flat = np.full((1, *SOURCE.shape), 0.25, dtype=np.float32)
    flat[:, :, 30:] = np.nan
    out = warp(Resampler(SOURCE, SOURCE, DisplacementField.shift(10.0, 4.0, UTM)), flat, SOURCE.full)
    assert np.nanmax(np.abs(out - 0.25)) < 1e-6


def test_outside_the_source_there_is_nothing():
    far = Grid.from_origin(UTM, 900_000, 5_000_000, 30, 10, 10)
    resampler = Resampler(SOURCE, far, DisplacementField.zero())
    need = resampler.source_block(far.full)
    assert min(need.shape) == 0
    assert np.isnan(resampler.apply(np.zeros((2, *need.shape), dtype=np.float32), need, far.full)).all()


def test_coarser_output_does_not_alias():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (1, *SOURCE.shape)).astype(np.float32)
    coarse = SOURCE.coarsened(3)
    out = warp(Resampler(SOURCE, coarse, DisplacementField.zero()), noise, coarse.full)
    assert np.nanstd(out) < 0.5  # plain interpolation would keep the full standard deviation of 1


def test_nearest_takes_the_sample_under_the_centre():
    classes = np.arange(SOURCE.height * SOURCE.width, dtype=np.float32).reshape(1, *SOURCE.shape)
    out = warp(Resampler(SOURCE, SOURCE.nested(3), None, kernel="nearest"), classes, SOURCE.nested(3).full)
    assert np.array_equal(out, np.repeat(np.repeat(classes, 3, 1), 3, 2))


def test_refuses_a_field_of_another_reference_system():
    with pytest.raises(UsageError, match="another reference system"):
        Resampler(SOURCE, SOURCE, DisplacementField.shift(1, 1, NEXT_ZONE))
    with pytest.raises(UsageError, match="kernel"):
        Resampler(SOURCE, SOURCE, None, kernel="lanczos")  # type: ignore[arg-type]
