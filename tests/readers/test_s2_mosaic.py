"""Mosaics of Sentinel-2 tiles: neighbours of one zone, other zones, gaps, clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from safe_samples import GRID, ZONE_32, make_safe, reflectance

from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.grid import Bounds, Grid, Slice2D, reproject_xy
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.sentinel2.layout import FOOTPRINT_MARGIN_M
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.sensors.sentinel2 import BANDS_10M

ZONE_33 = CRS.from_epsg(32633)
WEST = GRID
EAST = GRID.crop(Slice2D(10, 106, 100, 232))  # overlaps 32 columns


def _open(path: Path, **settings: Any) -> Sentinel2Product:
    return Sentinel2Product(make_safe(path, **settings))


def _texture(grid: Grid, seed: int) -> dict[str, np.ndarray]:
    """Reflectance in whole DN, without the wild contrasts that ring down to zero in stored overviews."""
    rng = np.random.default_rng(seed)
    return {band: rng.integers(2000, 3000, grid.shape) / 10_000 for band in BANDS_10M}


def _wave(grid: Grid) -> np.ndarray:
    """A smooth pattern fixed to the ground (in zone 32 coordinates), whatever grid looks at it."""
    rows, cols = np.mgrid[: grid.height, : grid.width]
    x, y = reproject_xy(grid.crs, ZONE_32, *grid.xy(rows, cols))
    return 0.3 + 0.1 * np.sin((x - 600_000) / 90.0) * np.cos((y - 5_000_000) / 110.0)


def test_neighbours_of_one_zone_are_passed_on_unchanged(tmp_path: Path) -> None:
    west, east = _texture(WEST, 1), _texture(EAST, 2)
    clear, scl_east = np.full((48, 66), 4, np.uint8), np.full((48, 66), 5, np.uint8)
    tiles = [
        _open(tmp_path / "w", reflectance=west, scl=clear),
        _open(tmp_path / "e", grid=EAST, reflectance=east, scl=scl_east),
    ]
    with Sentinel2Mosaic(tiles) as mosaic:
        assert isinstance(mosaic, MultispectralProduct)
        assert mosaic.band_names == BANDS_10M
        assert mosaic.grid == WEST.crop(Slice2D(0, 106, 0, 232))
        cube = mosaic.read(mosaic.grid.full)
        scl = mosaic.classes(mosaic.grid.full)
        resampled = [tile["resampled"] for tile in mosaic.info.attributes["tiles"]]
    expected = np.full((4, 106, 232), np.nan)
    for order, band in enumerate(BANDS_10M):
        expected[order, 10:106, 100:232] = east[band]
        expected[order, 0:96, 0:132] = west[band]  # equally clear: the first product stays on top
    np.testing.assert_allclose(cube, expected, atol=2e-7)
    classes = np.zeros((106, 232), np.uint8)
    classes[10:106, 100:232], classes[0:96, 0:132] = 5, 4
    np.testing.assert_array_equal(scl, classes)
    assert resampled == [False, False]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_windows_of_a_mosaic_are_crops_of_the_whole(pair: Sentinel2Mosaic, data: st.DataObject) -> None:
    height, width = pair.grid.shape
    row0 = data.draw(st.integers(0, height - 1))
    col0 = data.draw(st.integers(0, width - 1))
    block = Slice2D(row0, data.draw(st.integers(row0 + 1, height)), col0, data.draw(st.integers(col0 + 1, width)))
    whole, part = pair.read(pair.grid.full, [2, 1]), pair.read(block, [2, 1])
    crop = whole[(slice(None), *block.slices)]
    assert np.array_equal(np.isnan(crop), np.isnan(part))
    # GDAL approximates the transformation anew for each window: less than a tenth of a DN.
    np.testing.assert_allclose(part, crop, atol=1e-5)
    np.testing.assert_array_equal(pair.classes(block), pair.classes(pair.grid.full)[block.slices])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tile of zone 32 and one of zone 33 that overlap near 12 degrees east."""
    folder = tmp_path_factory.mktemp("zones")
    own = Grid.from_origin(ZONE_32, 736_000, 5_000_000, 10, 150, 120)
    x, y = reproject_xy(ZONE_32, ZONE_33, *(np.array([value]) for value in (736_900.0, 4_999_900.0)))
    other = Grid.from_origin(ZONE_33, round(x[0] / 20) * 20, round(y[0] / 20) * 20, 10, 120, 140)
    tiles = []
    for name, grid, scl in (("a", own, 4), ("b", other, 6)):
        wave = _wave(grid)
        classes = np.full((grid.height // 2, grid.width // 2), scl, np.uint8)
        tiles.append(_open(folder / name, grid=grid, reflectance=dict.fromkeys(BANDS_10M, wave), scl=classes))
    mosaic = Sentinel2Mosaic(tiles, target_crs=ZONE_32)
    yield mosaic
    mosaic.close()


def test_a_tile_of_another_zone_lands_in_the_right_place(pair: Sentinel2Mosaic) -> None:
    assert pair.grid.crs == ZONE_32
    cube = pair.read(pair.grid.full)
    truth = _wave(pair.grid)
    valid = np.isfinite(cube).all(axis=0)
    own = np.zeros_like(valid)
    first = next(tile for tile in pair._tiles if tile.offset is not None)
    row, col = first.offset
    own[row : row + 150, col : col + 120] = True
    assert valid[own].all()
    assert (valid & ~own).sum() > 5000, "the other zone fills what lies outside the first tile"
    error = np.abs(cube - truth)[:, valid]
    # A shift of one pixel would show as 0.011.
    assert error.max() < 1.5e-3
    assert error[:, own[valid]].max() < 1e-4
    classes = pair.classes(pair.grid.full)
    assert set(np.unique(classes[own])) == {4}
    assert set(np.unique(classes[valid & ~own])) <= {0, 6}
    assert (classes[valid & ~own] == 6).mean() > 0.99
    assert [tile["resampled"] for tile in pair.info.attributes["tiles"]].count(True) == 1


def test_the_tile_that_covers_most_of_the_footprint_gives_the_grid(tmp_path: Path) -> None:
    own = Grid.from_origin(ZONE_32, 736_000, 5_000_000, 10, 100, 60)
    x, y = reproject_xy(ZONE_32, ZONE_33, np.array([736_300.0]), np.array([5_000_300.0]))
    other = Grid.from_origin(ZONE_33, round(x[0] / 20) * 20, round(y[0] / 20) * 20, 10, 160, 160)
    footprint = own.bounds.buffer(600.0)
    tiles = [
        _open(tmp_path / "a", grid=own, reflectance=dict.fromkeys(BANDS_10M, _wave(own)), scl=None),
        _open(tmp_path / "b", grid=other, reflectance=dict.fromkeys(BANDS_10M, _wave(other)), scl=None),
    ]
    with Sentinel2Mosaic(tiles, bounds=footprint, bounds_crs=ZONE_32) as mosaic:
        assert mosaic.grid.crs == ZONE_33
        assert mosaic.grid.aligned_with(other)
        assert mosaic.classes(mosaic.grid.full) is None
        assert mosaic.cloud(mosaic.grid.full) is None
        cube = mosaic.read(mosaic.grid.full, [0])
    valid = np.isfinite(cube[0])
    assert np.abs(cube[0] - _wave(mosaic.grid))[valid].max() < 1.5e-3


def test_gaps_are_filled_and_clouds_belong_to_the_tile_that_is_shown(tmp_path: Path) -> None:
    first, second = _texture(GRID, 1), _texture(GRID, 2)
    for plane in first.values():
        plane[:, 80:] = np.nan
    scl_first = np.full((48, 66), 4, np.uint8)
    scl_first[:10, :10] = 9
    scl_first[:, 40:] = 0
    scl_second = np.full((48, 66), 4, np.uint8)
    scl_second[:, 10:30] = 8  # hidden under the first tile
    scl_second[20:40, 50:60] = 3
    tiles = [
        _open(tmp_path / "1", reflectance=first, scl=scl_first, spacecraft="Sentinel-2A"),
        _open(tmp_path / "2", reflectance=second, scl=scl_second, spacecraft="Sentinel-2B"),
    ]
    with Sentinel2Mosaic(tiles) as mosaic:
        ranked = [tile["name"][:3] for tile in mosaic.info.attributes["tiles"]]
        clear = [tile["clear_km2"] for tile in mosaic.info.attributes["tiles"]]
        assert clear == sorted(clear, reverse=True)
        cube, cloud = mosaic.read(GRID.full), mosaic.cloud(GRID.full)
        assert "mixes Sentinel-2A and Sentinel-2B" in mosaic.info.warnings[0]
        assert mosaic.info.sensor == "Sentinel-2A + Sentinel-2B"
    top, below = (first, second) if ranked[0] == "S2A" else (second, first)
    merged = np.where(np.isnan(top["B08"]), below["B08"], top["B08"])
    np.testing.assert_allclose(cube[3], merged, atol=2e-7)
    top_scl, below_scl = (scl_first, scl_second) if ranked[0] == "S2A" else (scl_second, scl_first)
    shown = np.kron(np.where(top_scl == 0, below_scl, top_scl), np.ones((2, 2), np.uint8))
    np.testing.assert_array_equal(cloud, np.isin(shown, (3, 8, 9, 10)))


def test_clouds_without_scene_classes_follow_the_shown_tile(tmp_path: Path) -> None:
    first, second = _texture(GRID, 1), _texture(GRID, 2)
    for plane in first.values():
        plane[:, :60] = np.nan
    cloudy = np.full((48, 66), 4, np.uint8)
    cloudy[0:24, 0:30] = 9
    settings = {"level": "L1C", "baseline": "05.09"}
    tiles = [
        _open(tmp_path / "1", reflectance=first, scl=np.full((48, 66), 4, np.uint8), **settings),
        _open(tmp_path / "2", reflectance=second, scl=cloudy, **settings),
    ]
    with Sentinel2Mosaic(tiles) as mosaic:
        assert mosaic.classes(GRID.full) is None
        cloud = mosaic.cloud(GRID.full)
        assert mosaic.read(GRID.full, [0])[0, 0, 0] == pytest.approx(second["B02"][0, 0]), "it has more clear pixels"
    expected = np.zeros(GRID.shape, bool)
    expected[0:48, 0:60] = True
    np.testing.assert_array_equal(cloud, expected)


def test_only_tiles_under_the_footprint_stay_open_and_the_grid_is_bounded(tmp_path: Path) -> None:
    far = Grid.from_origin(ZONE_32, 690_000, 5_000_040, 10, 96, 132)
    tiles = [_open(tmp_path / "near"), _open(tmp_path / "far", grid=far)]
    footprint = Bounds(600_200, 4_999_300, 601_000, 4_999_900)
    with Sentinel2Mosaic(tiles, bounds=footprint) as mosaic:
        assert len(mosaic.info.attributes["tiles"]) == 1
        assert mosaic.grid == GRID
        with pytest.raises(UsageError, match="closed"):
            tiles[1].read(Slice2D(0, 1, 0, 1))
    reach = mosaic.grid.bounds
    assert reach.right < footprint.right + FOOTPRINT_MARGIN_M + 10


def test_footprints_without_data_are_refused(tmp_path: Path) -> None:
    bands = reflectance()
    for plane in bands.values():
        plane[:] = np.nan
    tiles = [
        _open(tmp_path / "1", reflectance=bands),
        _open(tmp_path / "2", reflectance=bands, spacecraft="Sentinel-2B"),
    ]
    with pytest.raises(OverlapError, match="None of the Sentinel-2 tiles has data") as caught:
        Sentinel2Mosaic(tiles)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    for tile in tiles:
        tile.close()
    with pytest.raises(UsageError, match="at least one"):
        Sentinel2Mosaic([])


def test_levels_must_agree(tmp_path: Path) -> None:
    tiles = [_open(tmp_path / "1"), _open(tmp_path / "2", level="L1C")]
    with pytest.raises(InputError, match=r"different processing levels \(L1C and L2A\)"):
        Sentinel2Mosaic(tiles)
    for tile in tiles:
        tile.close()


def test_days_that_differ_are_reported(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    tiles = [_open(tmp_path / "1"), _open(tmp_path / "2", sensing_time=datetime(2023, 7, 4, 10, tzinfo=UTC))]
    with Sentinel2Mosaic(tiles) as mosaic:
        assert "2023-07-01, 2023-07-04" in mosaic.info.warnings[-1]
