"""Which Sentinel-2 products an image is paired with."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS

from hsfuse.grid import Grid, reproject_xy
from hsfuse.readers.product_header import ProductHeader
from hsfuse.workflows.batch.pairing import Archive, PairingLimits, Partner

UTM32, UTM33 = CRS.from_epsg(32632), CRS.from_epsg(32633)
WHEN = datetime(2024, 6, 21, 10, 30, tzinfo=UTC)
SPAN_M = 109_800.0


def image(
    left: float = 720_000.0, top: float = 4_960_000.0, crs: CRS = UTM32, start: datetime | None = WHEN
) -> ProductHeader:
    return ProductHeader(Path("p.he5"), "p.he5", (Grid.from_origin(crs, left, top, 30.0, 1000, 1000),), start)


def tile(
    name: str, days: float = 2.0, cloud: float | None = 0.0, left: float = 699_960.0, top: float = 5_000_040.0,
    crs: CRS = UTM32, **more: object,
) -> ProductHeader:  # fmt: skip
    start = WHEN + timedelta(days=days)
    facts = {"level": "L2A", "baseline": "05.10", "acquisition": f"S2A {start.isoformat()}"} | more
    grid = Grid.from_origin(crs, left, top, 10.0, 10_980, 10_980)
    return ProductHeader(Path(name), name, (grid,), start, cloud, **facts)  # type: ignore[arg-type]


def names(found: Partner | str) -> list[str]:
    assert isinstance(found, Partner), found
    return [product.name for product in found.products]


def test_near_in_time_and_clear_wins() -> None:
    archive = Archive([tile("far", 25.0), tile("near", 3.0), tile("cloudy", 1.0, cloud=60.0)])
    found = archive.partner(image(), PairingLimits())
    assert names(found) == ["near"]
    assert isinstance(found, Partner)
    assert (found.days_apart, found.cloud_percent, found.coverage) == (3.0, 0.0, 1.0)


def test_surface_reflectance_before_top_of_atmosphere_and_new_processing_before_old() -> None:
    toa = tile("toa", 0.0, level="L1C", acquisition="S2A L1C")
    old, new = tile("old", 4.0, baseline="02.14"), tile("new", 4.0, baseline="05.00")
    assert names(Archive([toa, old, new]).partner(image(), PairingLimits())) == ["new"]
    assert names(Archive([toa]).partner(image(), PairingLimits())) == ["toa"]


def test_an_image_across_two_tiles_gets_both_and_only_of_one_overflight() -> None:
    west, east = tile("west"), tile("east", left=699_960.0 + SPAN_M - 9_780.0)
    other_day = tile("later", 7.0, left=699_960.0 + SPAN_M - 9_780.0)
    across = image(left=699_960.0 + SPAN_M - 20_000.0)
    found = Archive([other_day, west, east]).partner(across, PairingLimits())
    assert sorted(names(found)) == ["east", "west"]
    # Where one tile covers everything, its neighbour is not read.
    assert names(Archive([west, east]).partner(image(), PairingLimits())) == ["west"]


def test_other_zone_and_antimeridian() -> None:
    x, y = reproject_xy(UTM32, UTM33, np.array([720_000.0]), np.array([4_960_000.0]))
    turned = tile("other zone", left=float(x[0]) - 30_000.0, top=float(y[0]) + 30_000.0, crs=UTM33)
    assert names(Archive([turned]).partner(image(), PairingLimits())) == ["other zone"]
    first, last = CRS.from_epsg(32701), CRS.from_epsg(32760)
    x, y = reproject_xy(CRS.from_epsg(4326), first, np.array([-179.95]), np.array([-17.0]))
    fiji = image(left=float(x[0]) - 15_000.0, top=float(y[0]) + 15_000.0, crs=first)
    x, y = reproject_xy(first, last, x, y)
    west = tile("west of it", left=float(x[0]) - 60_000.0, top=float(y[0]) + 60_000.0, crs=last)
    assert names(Archive([west]).partner(fiji, PairingLimits())) == ["west of it"]


def test_a_half_empty_tile_is_known_by_its_outline() -> None:
    """The swath ends in the tile: the grid covers the image, the data does not."""
    left, top = 699_960.0, 5_000_040.0
    ring = np.array([[left, top], [left + 25_000, top], [left + 25_000, top - SPAN_M], [left, top - SPAN_M]])
    longitude, latitude = reproject_xy(UTM32, CRS.from_epsg(4326), ring[:, 0], ring[:, 1])
    half = tile("half", 1.0, outline=tuple(zip(longitude.tolist(), latitude.tolist(), strict=True)))
    found = Archive([half]).partner(image(), PairingLimits(min_overlap=0.1))
    assert isinstance(found, Partner)
    assert found.coverage == pytest.approx(4_960 / 30_000, abs=0.02)
    assert names(Archive([half, tile("whole", 9.0)]).partner(image(), PairingLimits())) == ["whole"]


@pytest.mark.parametrize(
    ("products", "reason"),
    [
        ([], "none of the 0 Sentinel-2 products lies under it"),
        ([tile("away", left=200_000.0)], "none of the 1 Sentinel-2 products lies under it"),
        ([tile("old", 90.0)], r"old, is 90 days apart \(--max-days 60\)"),
        ([tile("white", cloud=95.0)], r"white has 95 % cloud \(--max-cloud 80\)"),
        ([tile("edge", left=747_000.0)], r"edge covers only 10 % of it \(--min-overlap 0.2\)"),
    ],
)
def test_why_there_is_no_partner(products: list[ProductHeader], reason: str) -> None:
    found = Archive(products).partner(image(), PairingLimits())
    assert isinstance(found, str)
    assert re.search(reason, found), found


def test_an_image_without_a_time_takes_what_is_clear() -> None:
    found = Archive([tile("cloudy", cloud=50.0), tile("clear", 400.0)]).partner(image(start=None), PairingLimits())
    assert names(found) == ["clear"]
    assert isinstance(found, Partner)
    assert found.days_apart is None


def test_overflights_that_can_fill_the_clouds_of_the_best_come_along() -> None:
    half, third, clear = tile("half", 1.0, cloud=40.0), tile("third", 8.0, cloud=30.0), tile("clear", 30.0)
    late, toa = tile("late", 50.0), tile("toa", 2.0, level="L1C", acquisition="S2A L1C")
    found = Archive([late, toa, clear, third, half]).partner(image(), PairingLimits())
    assert names(found) == ["half"]
    assert isinstance(found, Partner)
    assert found.cloud_percent == 40.0, "the limits and the table are about the best"
    # The clear one is expected to leave nothing open, so none behind it is needed; levels are not mixed.
    assert [product.name for product in found.fills] == ["third", "clear"]
    alone = Archive([tile("all clear", 1.0), third]).partner(image(), PairingLimits())
    assert isinstance(alone, Partner)
    assert alone.fills == ()


def test_only_days_that_are_wanted() -> None:
    archive = Archive([tile("near", 1.0), tile("far", 9.0)])
    assert names(archive.partner(image(), PairingLimits(), [(WHEN + timedelta(days=9)).date()])) == ["far"]
    found = archive.partner(image(), PairingLimits(), [WHEN.date()])
    assert found == "no Sentinel-2 product under it is of 2024-06-21 (--s2-date)"
