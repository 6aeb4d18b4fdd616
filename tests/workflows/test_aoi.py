"""Areas of interest: across the 180th meridian, without a reference system, and files that are none."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS

from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.grid import Grid
from hsfuse.workflows.steps.aoi import parse_aoi

ZONE_1S = CRS.from_epsg(32701)
ZONE_32 = CRS.from_epsg(32632)
GRID = Grid.from_origin(ZONE_1S, 174_000.0, 8_178_000.0, 30.0, 400, 400)


def write(path: Path, rings: list[list[list[float]]], **more: Any) -> Path:
    geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    feature = {"type": "Feature", "properties": {}, "geometry": geometry}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]} | more))
    return path


def ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def test_a_box_across_the_180th_meridian() -> None:
    area = parse_aoi("179.98,-16.5,-179.97,-16.48", ZONE_1S, "EPSG:4326")
    plain = parse_aoi("179.98,-16.5,180.03,-16.48", ZONE_1S, "EPSG:4326")
    np.testing.assert_allclose(area.bounds, plain.bounds, atol=1)
    width, height = area.bounds.right - area.bounds.left, area.bounds.top - area.bounds.bottom
    assert 5000 < width < 6000
    assert 2000 < height < 2500
    for text, system in (
        ("10,44,9,45", "EPSG:32632"),
        ("179,-17,-179,-18", "EPSG:4326"),
        ("200,0,-200,1", "EPSG:4326"),
    ):
        with pytest.raises(UsageError, match="is empty"):
            parse_aoi(text, ZONE_1S, system)


@pytest.mark.parametrize(
    "rings",
    [
        [ring(179.98, -16.5, 180, -16.48), ring(-180, -16.5, -179.97, -16.48)],
        [ring(179.98, -16.5, 180.03, -16.48)],
        [[[179.98, -16.5], [-179.97, -16.5], [-179.97, -16.48], [179.98, -16.48], [179.98, -16.5]]],
    ],
    ids=["cut at 180", "beyond 180", "jumping"],
)
def test_polygons_across_the_180th_meridian(tmp_path: Path, rings: list[list[list[float]]]) -> None:
    area = parse_aoi(str(write(tmp_path / "a.geojson", rings)), ZONE_1S)
    box = parse_aoi("179.98,-16.5,-179.97,-16.48", ZONE_1S, "EPSG:4326")
    np.testing.assert_allclose(area.bounds, box.bounds, atol=30)
    mask = area.mask(GRID)
    assert mask is not None
    assert mask.sum() * 900 == pytest.approx(5340 * 2213, rel=0.05)


def test_a_file_without_reference_system(tmp_path: Path) -> None:
    import pyogrio
    import shapely

    def save(name: str, box: tuple[float, float, float, float]) -> str:
        path = tmp_path / name
        pyogrio.raw.write(
            path, np.array([shapely.to_wkb(shapely.box(*box))]), [], [], geometry_type="Polygon",
            driver="ESRI Shapefile",
        )  # fmt: skip
        return str(path)

    with pytest.warns(UserWarning, match="crs"):
        metres, degrees = save("m.shp", (6e5, 5e6, 6.1e5, 5.01e6)), save("d.shp", (10.3, 45.1, 10.4, 45.2))
    with pytest.raises(InputError, match="names no reference system, and its coordinates are no degrees") as caught:
        parse_aoi(metres, ZONE_32)
    assert "ogr2ogr -a_srs" in caught.value.hint
    assert parse_aoi(degrees, ZONE_32).bounds.left == pytest.approx(602_000, abs=2000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ("[" * 100_000, "cannot be read"),
        ('{"type":"Feature","properties":{},"geometry":{"type":"Point","coordinates":[10,45]}}', "holds no polygon"),
        (
            '{"type":"Feature","properties":{},"geometry":{"type":"Polygon","coordinates":[[[0,89],[1e300,0],[0,0],[0,89]]]}}',
            "no place",
        ),
    ],
    ids=["empty", "no feature", "nested", "a point", "far away"],
)
def test_files_that_are_no_area(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(content)
    with pytest.raises((InputError, OverlapError), match=words) as caught:
        parse_aoi(str(path), ZONE_32)
    assert caught.value.exit_code in (3, 4)


def test_names_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        parse_aoi("x" * 5000, ZONE_32)
    with pytest.raises(InputError, match="does not exist"):
        parse_aoi("a\0b", ZONE_32)
    os.mkfifo(tmp_path / "pipe.geojson")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        parse_aoi(str(tmp_path / "pipe.geojson"), ZONE_32)
    for text in ("nan,1,2,3", "-inf,0,inf,1"):
        with pytest.raises(UsageError, match="is empty"):
            parse_aoi(text, ZONE_32)


def test_a_reference_system_that_is_an_address_is_not_looked_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/crs"
        crs = {"type": "link", "properties": {"href": address, "type": "esriwkt"}}
        path = write(tmp_path / "a.geojson", [ring(10.3, 45.1, 10.4, 45.2)], crs=crs)
        parse_aoi(str(path), ZONE_32)
        with pytest.raises(TimeoutError):
            server.accept()
