"""STAC items anywhere on the globe and without a date, as pystac and RFC 7946 want them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
from rasterio.crs import CRS
from shapely.geometry import shape
from writers_support import CENTRES_NM, PROVENANCE

from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import FORMATS, SampleEncoding
from hsfuse.writers.band_metadata import CubeMetadata
from hsfuse.writers.footprint import footprint
from hsfuse.writers.stac import stac_item, stac_text


def _grid(epsg: int, x: float, y: float, size: int = 400, pixel: float = 10.0) -> Grid:
    return Grid.from_origin(CRS.from_epsg(epsg), x, y, pixel, size, size)


def test_an_ordinary_place() -> None:
    found = footprint(_grid(32632, 500_000, 5_000_000))
    assert found.geometry is not None
    assert found.bbox is not None
    assert found.geometry["type"] == "Polygon"
    west, south, east, north = found.bbox
    assert west < east
    assert shape(found.geometry).bounds == (west, south, east, north)
    assert shape(found.geometry).exterior.is_ccw


@pytest.mark.parametrize(
    ("epsg", "x"), [(32701, 178_000.0), (32660, 828_000.0)], ids=["from the east", "from the west"]
)
def test_across_the_antimeridian(epsg: int, x: float) -> None:
    """West is larger than east, and the outline is cut into two parts that together have its area."""
    grid = _grid(epsg, x, 8_168_000.0 if epsg == 32701 else 1_000_000.0)
    found = footprint(grid)
    assert found.geometry is not None
    assert found.bbox is not None
    west, south, east, north = found.bbox
    assert west > 179 > -179 > east
    assert south < north
    outline = shape(found.geometry)
    assert outline.geom_type == "MultiPolygon"
    assert len(outline.geoms) == 2
    assert outline.is_valid
    width = 360.0 + east - west
    assert outline.area == pytest.approx(width * (north - south), rel=0.05)
    assert all(part.exterior.is_ccw for part in outline.geoms)
    assert sorted((part.bounds[0] < 0) for part in outline.geoms) == [False, True]
    assert max(abs(value) for part in outline.geoms for value in part.bounds[::2]) == 180.0


def test_around_a_pole() -> None:
    found = footprint(_grid(3413, -200_000.0, 200_000.0, 400, 1000.0))
    assert found.bbox is not None
    west, south, east, north = found.bbox
    assert (west, east, north) == (-180.0, 180.0, 90.0)
    assert 87 < south < 90


def test_nowhere_on_the_globe() -> None:
    found = footprint(_grid(32632, 1e12, 1e12))
    assert (found.bbox, found.geometry) == (None, None)


@pytest.mark.parametrize("acquired", [datetime(2024, 4, 2, 10, tzinfo=UTC), None])
@pytest.mark.parametrize(("epsg", "x", "y"), [(32632, 5e5, 5e6), (32701, 178e3, 8168e3), (32632, 1e12, 1e12)])
@pytest.mark.parametrize("name", FORMATS.names())
def test_pystac_reads_every_item(
    tmp_path_factory: pytest.TempPathFactory, acquired: datetime | None, epsg: int, x: float, y: float, name: str
) -> None:
    metadata = CubeMetadata.make(
        BandTable.make(CENTRES_NM), acquired=acquired, provenance=PROVENANCE | {"score": np.nan and None}
    )  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "out.img"
    item = stac_item(path, metadata, _grid(epsg, x, y), SampleEncoding.of("int16"), FORMATS.get(name))
    assert stac_text(item)
    read = pystac.Item.from_dict(item)
    assert read.datetime == acquired
    if acquired is None:
        assert read.common_metadata.start_datetime is not None
    again = pystac.Item.from_dict(read.to_dict())
    assert again.bbox == item.get("bbox")
