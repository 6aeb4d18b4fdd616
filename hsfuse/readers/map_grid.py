"""The map grid of a GDAL raster: north-up, square pixels, metres; others are refused, or seen from such a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Bounds, Grid, reproject_bounds, reproject_xy, utm_crs

_METRES_PER_DEGREE = 111_195.0
_PROBE_M = 1000.0
_MOST_STRETCH = 0.02
"""Map projections for measuring stay below; pixel sizes of others are not metres on the ground."""


def read_grid(dataset: rasterio.io.DatasetReader, path: Path) -> Grid:
    """Return the map grid of a dataset.

    Raises
    ------
    InputError
        It has none, or one that is not north-up with square pixels in metres.
    """
    crs, transform = dataset.crs, dataset.transform
    place = _place(dataset, path)
    if crs.is_geographic:
        raise InputError(
            f"{path}: the image is in degrees; pixel sizes in metres are needed.",
            hint=f"Warp it to UTM first: {_warp_command(dataset, place)}",
        )
    if not crs.is_projected or abs(crs.linear_units_factor[1] - 1.0) > 1e-9:
        raise InputError(
            f"{path}: the reference system is not projected in metres.",
            hint=f"Warp it to a UTM zone first: {_warp_command(dataset, place)}",
        )
    stretch = _stretch(crs, _bounds(dataset))
    if abs(stretch - 1.0) > _MOST_STRETCH:
        raise InputError(
            f"{path}: the reference system stretches distances {stretch:.3g} times there, so its metres are none.",
            hint=f"Warp it to UTM first: {_warp_command(dataset, place)}",
        )
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise InputError(
            f"{path}: the image is rotated or not north-up.", hint=f"Warp it first: {_warp_command(dataset, place)}"
        )
    if abs(transform.a + transform.e) > 1e-4 * transform.a:
        raise InputError(
            f"{path}: the pixels are not square ({transform.a:g} x {-transform.e:g} m).",
            hint=f"Warp it to square pixels first: {_warp_command(dataset, place)}",
        )
    return Grid(crs, transform, dataset.height, dataset.width)


def _place(dataset: rasterio.io.DatasetReader, path: Path) -> Bounds:
    """Extent in degrees; raises when the image has no place on the globe."""
    crs = dataset.crs
    if crs is None or dataset.transform.is_identity:
        raise InputError(
            f"{path}: the image has no map position (reference system and geotransform).",
            hint="Georeference it first, for example with gdal_translate -a_srs and -a_ullr.",
        )
    # What is not finite here would be met as a number that is none in every place that computes with it.
    if not np.all(np.isfinite(dataset.transform)) or abs(dataset.transform.determinant) < 1e-12:
        raise InputError(
            f"{path}: the geotransform gives its pixels no extent.",
            hint="Georeference the image again, for example with gdal_translate -a_ullr.",
        )
    unrelated = InputError(
        f"{path}: the reference system of the image cannot be related to longitude and latitude.",
        hint="Assign the right one, for example with gdal_edit -a_srs EPSG:32632.",
    )
    try:
        place = reproject_bounds(crs, CRS.from_epsg(4326), _bounds(dataset))
    except OverlapError as error:
        raise unrelated from error
    if not np.all(np.isfinite(place)):
        raise unrelated
    return place


def _stretch(crs: CRS, box: Bounds) -> float:
    """Map metres for each metre on the ground, in the middle of a box: 1 in UTM, far more in Web Mercator."""
    x, y = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    at_x, at_y = np.array([x, x + _PROBE_M, x]), np.array([y, y, y + _PROBE_M])
    lon, lat = (np.deg2rad(part) for part in reproject_xy(crs, CRS.from_epsg(4326), at_x, at_y))
    east = (lon[1:] - lon[0] + np.pi) % (2 * np.pi) - np.pi
    with np.errstate(invalid="ignore"):
        metres = np.hypot(east * np.cos(lat[0]), lat[1:] - lat[0]) * np.rad2deg(1.0) * _METRES_PER_DEGREE
    return float(_PROBE_M / metres.mean()) if np.all(metres > 0) and np.all(np.isfinite(metres)) else math.inf


def _bounds(dataset: rasterio.io.DatasetReader) -> Bounds:
    """Extent in map units, whatever the orientation."""
    corners = [dataset.transform * place for place in product((0, dataset.width), (0, dataset.height))]
    x, y = zip(*corners, strict=True)
    return Bounds(min(x), min(y), max(x), max(y))


def _warp_command(dataset: rasterio.io.DatasetReader, place: Bounds) -> str:
    """Return the command that puts an image on a grid that is not refused."""
    crs, transform = dataset.crs, dataset.transform
    latitude = (place.bottom + place.top) / 2
    zone = crs
    across, down = np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)
    if crs.is_geographic:
        across, down = across * _METRES_PER_DEGREE * np.cos(np.deg2rad(latitude)), down * _METRES_PER_DEGREE
    elif crs.is_projected:
        across, down = (side * crs.linear_units_factor[1] for side in (across, down))
    stretch = 1.0 if crs.is_geographic else _stretch(crs, _bounds(dataset))
    stretched = abs(stretch - 1.0) > _MOST_STRETCH
    across, down = across / stretch, down / stretch
    if crs.is_geographic or not crs.is_projected or crs.linear_units_factor[1] != 1.0 or stretched:
        zone = utm_crs((place.left + place.right) / 2, latitude)
    size = _round_size(float(np.sqrt(across * down)))
    return f"gdalwarp -t_srs {zone.to_string()} -tr {size:g} {size:g} -r cubic IN OUT"


def _round_size(metres: float) -> float:
    """Return the pixel size that was probably meant: whole tens of metres, or two digits below ten metres."""
    if metres >= 10:
        return 10.0 * round(metres / 10)
    return float(f"{metres:.2g}")


@dataclass(frozen=True)
class OrientedPixels:
    """Pixels that are rotated, south-up, in degrees or not square, as they are seen from a metric reference system.

    Attributes
    ----------
    crs
        Metric reference system in which they are asked for.
    own_crs, transform
        Their own reference system, and the transform from (column, row) of outer corners to it.
    height, width
        Shape in pixels.
    """

    crs: CRS
    own_crs: CRS
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.height, self.width

    @property
    def is_smooth(self) -> bool:
        """True: map projections are straight over some pixels."""
        return True

    def xy(
        self, row: NDArray[np.floating], col: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map coordinates of fractional (row, col); whole numbers are pixel centres."""
        t = self.transform
        x = t.c + t.a * (col + 0.5) + t.b * (row + 0.5)
        y = t.f + t.d * (col + 0.5) + t.e * (row + 0.5)
        return reproject_xy(self.own_crs, self.crs, x, y)

    def rowcol(
        self, x: NDArray[np.floating] | float, y: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional (row, col) of map coordinates."""
        own_x, own_y = reproject_xy(self.crs, self.own_crs, np.asarray(x), np.asarray(y))
        if self.own_crs.is_geographic:
            # Images may count longitudes beyond the 180th meridian.
            middle = self.transform.c + self.transform.a * self.width / 2 + self.transform.b * self.height / 2
            own_x = middle + (own_x - middle + 180.0) % 360.0 - 180.0
        back = ~self.transform
        col = back.c + back.a * own_x + back.b * own_y - 0.5
        row = back.f + back.d * own_x + back.e * own_y - 0.5
        return row, col


def seen_from_grid(dataset: rasterio.io.DatasetReader, path: Path) -> tuple[Grid, OrientedPixels | None]:
    """Return the map grid of a dataset; of one that has none, a metric one around it and how its pixels lie there.

    The grid has the reference system of the image, or the UTM zone of its middle where that is not in metres, and
    square pixels of the larger side of the image's.

    Raises
    ------
    InputError
        The image has no place on the globe, or pixels without an extent.
    """
    place = _place(dataset, path)
    crs, t = dataset.crs, dataset.transform
    metric = crs.is_projected and abs(crs.linear_units_factor[1] - 1.0) < 1e-9
    metric = metric and abs(_stretch(crs, _bounds(dataset)) - 1.0) <= _MOST_STRETCH
    plain = t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0 and abs(t.a + t.e) <= 1e-4 * t.a
    if metric and plain:
        return Grid(crs, t, dataset.height, dataset.width), None
    if not metric:
        longitude = t.c + t.a * dataset.width / 2 if crs.is_geographic else (place.left + place.right) / 2
        zone = utm_crs((longitude + 180.0) % 360.0 - 180.0, (place.bottom + place.top) / 2)
    pixels = OrientedPixels(crs if metric else zone, crs, t, dataset.height, dataset.width)
    middle = np.array([dataset.height / 2]), np.array([dataset.width / 2])
    x, y = (np.array([part[0] for part in axis]) for axis in zip(
        pixels.xy(*middle), pixels.xy(middle[0] + 1, middle[1]), pixels.xy(middle[0], middle[1] + 1), strict=True
    ))  # fmt: skip
    size = _meant(float(np.hypot(x[1:] - x[0], y[1:] - y[0]).max()))
    down, across = np.linspace(-0.5, dataset.height - 0.5, 33), np.linspace(-0.5, dataset.width - 0.5, 33)
    rim_row = np.concatenate([down, down, np.full(33, down[0]), np.full(33, down[-1])])
    rim_col = np.concatenate([np.full(33, across[0]), np.full(33, across[-1]), across, across])
    x, y = pixels.xy(rim_row, rim_col)
    if not (np.isfinite(x).all() and np.isfinite(y).all() and math.isfinite(size) and size > 0):
        raise InputError(
            f"{path}: parts of the image have no place in {pixels.crs.to_string()}.",
            hint=f"Cut it to one map zone first: {_warp_command(dataset, place)}",
        )
    left, top = math.floor(x.min() / size) * size, math.ceil(y.max() / size) * size
    height, width = math.ceil((top - y.min()) / size), math.ceil((x.max() - left) / size)
    return Grid.from_origin(pixels.crs, left, top, size, height, width), pixels


def _meant(metres: float) -> float:
    """Return the pixel size that was probably meant: a multiple of ten, five or one metre within 2 %, else as it is."""
    for step in (10.0, 5.0, 1.0):
        near = step * round(metres / step)
        if near > 0 and abs(near - metres) <= 0.02 * metres:
            return near
    return metres
