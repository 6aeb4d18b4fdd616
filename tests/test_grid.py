"""Grids: corners, centres, nesting and cropping agree with rasterio."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.transform
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.errors import OverlapError, UsageError
from hsfuse.grid import Bounds, Grid, Slice2D, reproject_xy, utm_crs

UTM = CRS.from_epsg(32632)
metres = st.floats(-1e6, 1e6).map(lambda v: round(v, 1))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    return Grid.from_origin(
        UTM, draw(metres), draw(metres), draw(st.sampled_from([5.0, 10.0, 30.0])), draw(st.integers(1, 80)),
        draw(st.integers(1, 80)),
    )  # fmt: skip


@given(grids(), st.floats(-5, 90), st.floats(-5, 90))
def test_centres_agree_with_rasterio_and_come_back(grid: Grid, row: float, col: float) -> None:
    x, y = grid.xy(row, col)
    expected = rasterio.transform.xy(grid.transform, row, col)
    assert (float(x), float(y)) == pytest.approx(expected, abs=1e-6)
    back = grid.rowcol(x, y)
    assert (float(back[0]), float(back[1])) == pytest.approx((row, col), abs=1e-6)


@given(grids(), st.integers(2, 6))
def test_nesting_keeps_the_extent_and_coarsening_undoes_it(grid: Grid, ratio: int) -> None:
    fine = grid.nested(ratio)
    assert fine.bounds == pytest.approx(grid.bounds, abs=1e-6)
    assert fine.pixel_m == pytest.approx(grid.pixel_m / ratio)
    assert fine.coarsened(ratio).shape == grid.shape


@given(grids(), st.integers(0, 40), st.integers(0, 40))
def test_crop_and_block_in_are_inverse(grid: Grid, row: int, col: int) -> None:
    block = Slice2D(row, row + 7, col, col + 3)
    assert grid.crop(block).block_in(grid) == block


@given(grids(), st.integers(2, 4))
def test_covering_grid_nests_and_stays_inside(grid: Grid, ratio: int) -> None:
    inside = Bounds(*grid.bounds)
    try:
        covered = grid.covering(inside, ratio)
    except OverlapError:
        assert min(grid.shape) < ratio
        return
    block = covered.block_in(grid)
    assert block.row0 % ratio == block.col0 % ratio == 0
    assert covered.height % ratio == covered.width % ratio == 0
    assert block.row1 <= grid.height
    assert block.col1 <= grid.width


def test_block_of_bounds() -> None:
    grid = Grid.from_origin(UTM, 0.0, 100.0, 10.0, 10, 10)
    assert grid.block_of(Bounds(15, 45, 38, 78)) == Slice2D(2, 6, 1, 4)
    assert grid.block_of(Bounds(15, 45, 38, 78), whole_pixels=True) == Slice2D(3, 5, 2, 3)
    with pytest.raises(OverlapError, match="outside"):
        grid.block_of(Bounds(500, 500, 600, 600))


def test_rotated_and_empty_grids_are_refused() -> None:
    with pytest.raises(UsageError, match="north-up"):
        Grid(UTM, Affine(10, 1, 0, 0, -10, 0), 5, 5)
    with pytest.raises(OverlapError, match="at least one pixel"):
        Grid.from_origin(UTM, 0, 0, 10, 0, 5)


def test_row_blocks_cover_the_grid_once() -> None:
    grid = Grid.from_origin(UTM, 0.0, 0.0, 10.0, 23, 4)
    rows = [r for block in grid.row_blocks(5) for r in range(block.row0, block.row1)]
    assert rows == list(range(23))


def test_utm_zone_of_a_place() -> None:
    assert utm_crs(10.0, 53.5).to_epsg() == 32632
    assert utm_crs(-70.0, -33.0).to_epsg() == 32719
    x, y = reproject_xy(CRS.from_epsg(4326), utm_crs(9.0, 50.0), np.array([9.0]), np.array([0.0]))
    assert (float(x[0]), float(y[0])) == pytest.approx((500_000.0, 0.0), abs=0.01)


blocks = st.builds(
    lambda row, col, height, width: Slice2D(row, row + height, col, col + width),
    st.integers(0, 8), st.integers(0, 8), st.integers(0, 6), st.integers(0, 6),
)  # fmt: skip


@given(blocks, blocks)
def test_common_part_of_two_blocks_is_what_both_cover(one: Slice2D, other: Slice2D) -> None:
    covered = np.zeros((2, 14, 14), dtype=bool)
    covered[0][one.slices] = True
    covered[1][other.slices] = True
    common = one.intersect(other)
    found = np.zeros((14, 14), dtype=bool)
    if common is not None:
        found[common.slices] = True
        assert min(common.shape) > 0
    assert np.array_equal(found, covered.all(axis=0))
