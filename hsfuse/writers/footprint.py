"""Where a cube lies on the globe, as GeoJSON has it (RFC 7946), across the antimeridian and over a pole too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, reproject_xy

_DECIMALS = 7
"""Of a degree: a centimetre."""


@dataclass(frozen=True)
class Footprint:
    """Outline of a grid.

    Attributes
    ----------
    bbox
        West, south, east, north in degrees; west is larger than east across the antimeridian. None where the grid has
        no place on the globe.
    geometry
        Polygon, or MultiPolygon cut at the antimeridian, counter-clockwise; None likewise.
    """

    bbox: list[float] | None
    geometry: dict[str, Any] | None


def footprint(grid: Grid) -> Footprint:
    """Outline of a grid in longitude and latitude."""
    longitude, latitude = _corners(grid)
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return Footprint(None, None)
    # Neighbouring corners are less than half the globe apart, whichever way their longitudes are written.
    steps = (np.diff(longitude, append=longitude[:1]) + 180.0) % 360.0 - 180.0
    turn = round(float(steps.sum()))
    if turn:
        return _around_pole(latitude)
    unrolled = longitude[0] + np.concatenate([[0.0], np.cumsum(steps[:-1])])
    if unrolled.min() >= -180.0 and unrolled.max() <= 180.0:
        ring = _ring(unrolled, latitude)
        return Footprint(_bbox(unrolled, latitude), {"type": "Polygon", "coordinates": [ring]})
    return _across(unrolled, latitude)


def _corners(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners in longitude and latitude, counter-clockwise from the lower left; NaN where there are none."""
    from rasterio.crs import CRS

    left, bottom, right, top = grid.bounds
    x, y = np.array([left, right, right, left]), np.array([bottom, bottom, top, top])
    try:
        longitude, latitude = reproject_xy(grid.crs, CRS.from_epsg(4326), x, y)
    except OverlapError:
        return np.full(4, np.nan), np.full(4, np.nan)
    return np.asarray(longitude, dtype=np.float64), np.asarray(latitude, dtype=np.float64)


def _ring(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> list[list[float]]:
    points = [
        [round(float(a), _DECIMALS), round(float(b), _DECIMALS)] for a, b in zip(longitude, latitude, strict=True)
    ]
    return [*points, points[0]]


def _bbox(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> list[float]:
    values = (longitude.min(), latitude.min(), longitude.max(), latitude.max())
    return [round(float(value), _DECIMALS) for value in values]


def _across(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> Footprint:
    """Cut an outline whose longitudes leave -180 to 180."""
    from shapely.affinity import translate
    from shapely.geometry import Polygon, box
    from shapely.geometry.polygon import orient

    whole = Polygon(zip(longitude, latitude, strict=True))
    coordinates = []
    for shift in (-360.0, 0.0, 360.0):
        piece = whole.intersection(box(-180.0 + shift, -90.0, 180.0 + shift, 90.0))
        for part in getattr(piece, "geoms", [piece]):
            if part.area > 0:
                x, y = orient(translate(part, -shift)).exterior.coords.xy
                coordinates.append([_ring(np.array(x[:-1]), np.array(y[:-1]))])

    def wrapped(value: float) -> float:
        return round((value + 180.0) % 360.0 - 180.0, _DECIMALS)

    south, north = round(float(latitude.min()), _DECIMALS), round(float(latitude.max()), _DECIMALS)
    bbox = [wrapped(float(longitude.min())), south, wrapped(float(longitude.max())), north]
    return Footprint(bbox, {"type": "MultiPolygon", "coordinates": coordinates})


def _around_pole(latitude: NDArray[np.float64]) -> Footprint:
    """Return the cap of the globe that holds an outline around a pole."""
    edge = float(latitude[np.abs(latitude).argmin()])
    south, north = (edge, 90.0) if edge > 0 else (-90.0, edge)
    x, y = np.array([-180.0, 180.0, 180.0, -180.0]), np.array([south, south, north, north])
    return Footprint(_bbox(x, y), {"type": "Polygon", "coordinates": [_ring(x, y)]})
