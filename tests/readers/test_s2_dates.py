"""Sentinel-2 of several dates as one image: which dates are taken, how they are joined, what is left to say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from date_samples import NOON, bands_of, write_date
from rasterio.crs import CRS
from safe_samples import make_safe, reflectance, zip_product

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.readers import open_msi
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.sentinel2.composite import Sentinel2Composite
from hsfuse.readers.sentinel2.joining import join
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.readers.sentinel2.weights import shares
from hsfuse.readers.source_dates import DateWish
from hsfuse.sensors.sentinel2 import BANDS_ALL

ZONE_32 = CRS.from_epsg(32632)
GRID = Grid.from_origin(ZONE_32, 600_000, 5_000_040, 10, 200, 160)
TARGET = Grid.from_origin(ZONE_32, 600_100, 4_999_940, 30, 58, 46)
WISH = DateWish(start=NOON, sun_zenith_deg=30.0, sun_azimuth_deg=150.0, surface=True)
DAYS = (2.0, -5.0, 9.0)
NOISE = 0.001


def _ground() -> np.ndarray:
    """Fields with a fine texture, shape (band, row, col)."""
    rng = np.random.default_rng(3)
    fields = np.kron(rng.uniform(0.05, 0.4, (4, 10, 8)), np.ones((1, 20, 20)))
    return np.asarray(fields + rng.normal(0.0, 0.01, (4, *GRID.shape)), np.float32)


GROUND = _ground()
CLOUDS = bands_of((0, 3, 5), 100, 80)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dates in a tree of years, months and days, the middle one packed; each under clouds of its own."""
    folder = tmp_path_factory.mktemp("archive")
    for number, days in enumerate(DAYS):
        when = NOON + timedelta(days=days)
        place = folder / f"{when:%Y}" / f"{when:%m}" / f"{when:%d}"
        product = write_date(
            place, GRID, GROUND, CLOUDS[number], days, gain=1.0 + 0.1 * number, offset=0.02 * number, noise=NOISE
        )
        if number == 1:
            zip_product(product, place / f"{product.stem}.zip", 0)
            shutil.rmtree(product)
    (folder / "readme.txt").write_text("nothing to read")
    return folder


@pytest.fixture(scope="module")
def composite(archive: Path) -> Iterator[Sentinel2Composite]:
    opened = open_msi(archive, target=TARGET, dates=WISH)
    assert isinstance(opened, Sentinel2Composite)
    yield opened
    opened.close()


def test_the_nearest_clear_dates_are_found_in_a_tree_and_ordered(composite: Sentinel2Composite) -> None:
    assert isinstance(composite, MultispectralProduct)
    assert [round(source.days_apart or 0) for source in composite.dates] == [2, -5, 9]
    assert composite.info.start is not None
    assert composite.info.start.date() == date(2024, 6, 23), "time and sun are those of the date that fits best"
    first = composite.dates[0]
    assert first.clear == pytest.approx(0.5, abs=0.05)
    assert first.clear - 0.1 < first.used < first.clear, "others are preferred on the rim of its clouds"
    assert first.cloudy == pytest.approx(1.0 - first.clear)
    assert sum(source.used for source in composite.dates) == pytest.approx(1.0, abs=0.02)
    assert len(composite.sources) == 3
    assert composite.sources[1].suffix == ".zip"


def test_clear_where_any_date_is_and_joined_to_the_first(composite: Sentinel2Composite) -> None:
    cube, cloud = composite.read(composite.grid.full), composite.cloud(composite.grid.full)
    part = composite.grid.block_in(GRID).slices
    truth = GROUND[(slice(None), *part)]
    any_clear = np.kron((~CLOUDS).any(axis=0), np.ones((2, 2), bool))[part]
    assert not cloud[any_clear].any()
    error = np.abs(cube - truth)[:, ~cloud]
    assert np.sqrt(np.mean(error**2)) < 2 * NOISE, "gain, offset and clouds of other dates leave no trace"
    assert error.max() < 0.02
    second, third = composite.dates[1:]
    assert second.joined_cells
    np.testing.assert_allclose(second.gain, 1 / 1.1, rtol=0.01)
    np.testing.assert_allclose(third.gain, 1 / 1.2, rtol=0.01)
    np.testing.assert_allclose(second.offset, -0.02 / 1.1, atol=0.003)
    numbers = composite.date_numbers(composite.grid.full)
    assert set(np.unique(numbers)) == {1, 2, 3} | ({0} if cloud.any() else set())
    # Well inside its clear ground, the first date is passed on as it is.
    with Sentinel2Product(composite.sources[0]) as alone:
        inner = np.asarray(numbers == 1) & (
            np.abs(alone.read(alone.grid.full)[(slice(None), *part)] - cube).max(axis=0) == 0
        )
    assert inner.mean() > 0.15


def test_windows_are_crops_of_the_whole(composite: Sentinel2Composite) -> None:
    full = composite.grid.full
    whole = {
        "read": composite.read(full), "cloud": composite.cloud(full), "classes": composite.classes(full),
        "numbers": composite.date_numbers(full),
    }  # fmt: skip
    height, width = composite.grid.shape
    for block in (Slice2D(0, 1, 0, width), Slice2D(37, 166, 11, 90), Slice2D(height - 3, height, width - 5, width)):
        np.testing.assert_array_equal(composite.read(block), whole["read"][(slice(None), *block.slices)])
        np.testing.assert_array_equal(composite.read(block, [3, 1]), composite.read(block)[[3, 1]])
        np.testing.assert_array_equal(composite.cloud(block), whole["cloud"][block.slices])
        np.testing.assert_array_equal(composite.classes(block), whole["classes"][block.slices])
        np.testing.assert_array_equal(composite.date_numbers(block), whole["numbers"][block.slices])


def test_the_order_of_the_arguments_does_not_matter(archive: Path, composite: Sentinel2Composite) -> None:
    named = [*archive.rglob("*.zip"), *archive.rglob("*.SAFE")]
    with open_msi(named, target=TARGET, dates=WISH) as opened:
        assert opened.sources == composite.sources
        block = Slice2D(40, 90, 0, composite.grid.width)
        np.testing.assert_array_equal(opened.read(block), composite.read(block))


def test_days_that_are_wanted(archive: Path) -> None:
    def days(**wish: Any) -> list[int]:
        with open_msi(archive, target=TARGET, dates=DateWish(start=NOON, **wish)) as opened:
            return [round(source.days_apart or 0) for source in opened.dates] or [0]

    assert days(only=(date(2024, 6, 16), date(2024, 6, 30))) == [-5, 9]
    assert days(only=(date(2024, 6, 30),)) == [0], "a single date is opened as it always was"
    assert days(max_days=6.0) == [2, -5]
    with pytest.raises(OverlapError, match="is of 2024-06-20") as caught:
        days(only=(date(2024, 6, 20),))
    assert "2024-06-16, 2024-06-23, 2024-06-30" in caught.value.hint
    with pytest.raises(OverlapError, match=r"within 1 days \(--max-days\): the nearest is 2 days") as caught:
        days(max_days=1.0)
    assert caught.value.exit_code == 4
    assert "--max-days" in caught.value.hint


def test_cloud_over_the_footprint_and_the_sun_count(tmp_path: Path) -> None:
    clear = np.zeros((100, 80), bool)
    cloudy = clear.copy()
    cloudy[20:80] = True
    write_date(tmp_path / "a", GRID, GROUND, cloudy, 1)
    write_date(tmp_path / "b", GRID, GROUND, clear, 6, sun_zenith_deg=50.0)
    write_date(tmp_path / "c", GRID, GROUND, clear, 12)
    with open_msi(tmp_path, target=TARGET, dates=WISH) as opened:
        # 6 days and 20 degrees of sun weigh more than 12 days, as do 1 day and 60 % of cloud.
        assert [(round(source.days_apart or 0), source.used > 0) for source in opened.dates] == [(12, True), (1, False)]
        assert not opened.cloud(opened.grid.full).any()


def test_partial_granules_and_orbit_edges_fill_each_other(tmp_path: Path) -> None:
    clear = np.zeros((100, 80), bool)
    cols = np.arange(80)[None, :] - np.arange(100)[:, None] // 4
    west, east = cols > 45, cols < 25
    for name, hours, days, outside in (("a", 0.0, 1, west), ("b", 0.1, 1, cols < 40), ("c", 0.0, 4, east)):
        craft = "Sentinel-2B" if name == "b" else "Sentinel-2A"
        write_date(tmp_path / name, GRID, GROUND, clear, days, outside=outside, hours=hours, spacecraft=craft)
    with open_msi(tmp_path, target=TARGET, dates=WISH) as opened:
        # Two granules of one overflight cover all: the other date is not needed.
        assert [source.covered for source in opened.dates] == [1.0]
        assert len(opened.dates[0].products) == 2
        assert np.isfinite(opened.read(opened.grid.full)).all()
    shutil.rmtree(tmp_path / "b")
    with open_msi(tmp_path, target=TARGET, dates=WISH) as opened:
        assert all(source.used > 0 for source in opened.dates)
        assert np.isfinite(opened.read(opened.grid.full)).all()
        assert not opened.cloud(opened.grid.full).any()


def test_ground_that_no_date_shows_is_cloud_and_is_told(tmp_path: Path) -> None:
    for days, rows in ((1, slice(0, 60)), (4, slice(40, 100))):
        cloud = np.zeros((100, 80), bool)
        cloud[rows] = True
        write_date(tmp_path, GRID, GROUND, cloud, days)
    with open_msi(tmp_path, target=TARGET, dates=WISH) as opened:
        assert "is not clear in any of the 2 dates" in opened.info.warnings[-1]
        cloud = opened.cloud(opened.grid.full)
        middle = opened.grid.height // 2
        assert cloud[middle].all()
        assert not cloud[: middle - 30].any()
        assert np.isfinite(opened.read(opened.grid.full)).all(), "what hides the ground is shown"
        assert (opened.classes(opened.grid.full)[middle] == 9).all()
        assert not opened.date_numbers(opened.grid.full)[middle].any()


def test_what_the_user_names_fills_however_far_away_it_is(tmp_path: Path) -> None:
    cloud = np.zeros((100, 80), bool)
    cloud[:40] = True
    products = [write_date(tmp_path, GRID, GROUND, cloud if days == 1 else ~cloud, days) for days in (1, 80)]
    with open_msi(tmp_path, target=TARGET, dates=WISH) as opened:
        assert [source.used > 0 for source in opened.dates] == [True, False]
        assert opened.info.name == products[0].name
    with open_msi(products, target=TARGET, dates=WISH) as opened:
        assert [source.used > 0 for source in opened.dates] == [True, True]
        assert opened.info.name == f"{products[0].name} and 1 more of 2 dates"


def test_levels_are_not_mixed(tmp_path: Path) -> None:
    clear = np.zeros((100, 80), bool)
    surface = write_date(tmp_path / "a", GRID, GROUND, clear, 4)
    above = write_date(tmp_path / "b", GRID, GROUND, clear, 1, level="L1C")
    with pytest.raises(InputError, match=r"different processing levels \(L1C and L2A\)") as caught:
        open_msi([surface, above], target=TARGET, dates=WISH)
    assert caught.value.exit_code == 3
    for wanted, level in ((True, "L2A"), (False, "L1C")):
        with open_msi(tmp_path, target=TARGET, dates=DateWish(start=NOON, surface=wanted)) as opened:
            assert opened.info.level == level
            assert f"another level than {level} were left out" in " ".join(opened.info.warnings)


def test_a_damaged_product_of_an_archive_is_left_out_and_named(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy)
    broken = next(copy.rglob("*.SAFE"))
    (broken / "MTD_MSIL2A.xml").unlink()
    with caplog.at_level("WARNING"), open_msi(copy, target=TARGET, dates=WISH) as opened:
        assert len(opened.dates) == 2
    assert any("left out" in record.getMessage() and broken.name in record.getMessage() for record in caplog.records)
    with pytest.raises(InputError):
        open_msi([broken, *copy.rglob("*.zip")], target=TARGET, dates=WISH)


def test_a_join_resists_changed_ground() -> None:
    rng = np.random.default_rng(1)
    reference = rng.uniform(0.02, 0.5, (4, 400))
    values = (reference - 0.01) / 0.9 + rng.normal(0.0, 0.001, reference.shape)
    values[:, :120] = rng.uniform(0.02, 0.5, (4, 120))  # harvested
    values[0, 130:140] = np.nan
    found = join(values, reference)
    np.testing.assert_allclose(found.gain, 0.9, rtol=0.01)
    np.testing.assert_allclose(found.offset, 0.01, atol=0.002)
    assert 200 < found.cells < 300
    alone = join(values[:, :10], reference[:, :10])
    assert alone.cells == 0
    assert (alone.gain == 1).all()
    unlike = join(rng.uniform(0.2, 0.4, (4, 200)), reference[:, :200])
    assert (unlike.gain == 1).all(), "no line: brightness alone is joined"


def test_shares_add_up_and_the_first_date_covers_the_others() -> None:
    weights = np.array([[[255, 128, 1, 0, 1, 0, 2, 2, 1]], [[255, 255, 20, 0, 1, 3, 3, 2, 2]]], np.uint8)
    found = shares(weights)
    np.testing.assert_allclose(found.sum(axis=0)[0], [1, 1, 1, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(found[0, 0], [1, 126 / 253, 0, 0, 1, 0, 0, 1, 0], rtol=1e-6)


def test_a_date_of_another_zone_fills_in_the_right_place(tmp_path: Path) -> None:
    def wave(grid: Grid) -> np.ndarray:
        rows, cols = np.mgrid[: grid.height, : grid.width].astype(float)
        x, y = reproject_xy(grid.crs, ZONE_32, *grid.xy(rows, cols))
        plane = 0.3 + 0.1 * np.sin((x - 736_000) / 90.0) * np.cos((y - 5_000_000) / 110.0)
        return np.stack([plane] * 4)

    own = Grid.from_origin(ZONE_32, 736_000, 5_000_000, 10, 150, 120)
    zone_33 = CRS.from_epsg(32633)
    x, y = reproject_xy(ZONE_32, zone_33, *(np.array([value]) for value in (735_700.0, 5_000_300.0)))
    other = Grid.from_origin(zone_33, round(x[0] / 20) * 20, round(y[0] / 20) * 20, 10, 220, 200)
    cloud = np.zeros((75, 60), bool)
    cloud[:, 30:] = True
    write_date(tmp_path, own, wave(own), cloud, 1)
    write_date(tmp_path, other, wave(other), np.zeros((110, 100), bool), 30, gain=1.2, spacecraft="Sentinel-2B")
    target = Grid.from_origin(ZONE_32, 736_000, 5_000_000, 30, 50, 40)
    with open_msi(tmp_path, target=target, dates=WISH) as opened:
        assert opened.grid.crs == ZONE_32
        inside = own.block_in(opened.grid).slices
        cube, hidden = opened.read(opened.grid.full), opened.cloud(opened.grid.full)
        np.testing.assert_allclose(opened.dates[1].gain, 1 / 1.2, rtol=0.01)
        assert opened.info.sensor == "Sentinel-2A + Sentinel-2B"
    assert not hidden[inside].any()
    # A shift of one pixel would show as 0.011.
    assert np.abs(cube - wave(opened.grid))[(slice(None), *inside)].max() < 2.5e-3


def test_swir_bands_come_from_the_same_dates(tmp_path: Path) -> None:
    products = []
    for number, days in enumerate((1, 3)):
        scl = np.full((48, 66), 4, np.uint8)
        scl[:, slice(0, 20) if number == 0 else slice(30, 66)] = 9
        planes = reflectance(bands=BANDS_ALL, seed=number)
        when = NOON + timedelta(days=days)
        products.append(make_safe(tmp_path, reflectance=planes, scl=scl, sensing_time=when))
    target = Grid.from_origin(ZONE_32, 600_030, 5_000_010, 30, 28, 40)
    with open_msi(products, target=target, dates=WISH) as opened:
        swir = opened.swir_reference()
        assert swir is not None
        with swir, Sentinel2Product(products[0], bands="swir") as alone:
            assert swir.band_names == ("B02", "B11", "B12")
            assert swir.grid == opened.grid
            full = swir.grid.full
            np.testing.assert_array_equal(swir.date_numbers(full), opened.date_numbers(full))
            cube, first = swir.read(full), alone.read(alone.grid.full)
            # Away from the clouds of the first date there is nothing but it.
            np.testing.assert_allclose(cube[:, :, -8:], first[:, :, -8:], atol=1e-6)
            assert np.isfinite(cube).all()
