"""Geocoding of swath images through their latitude and longitude arrays.

PRISMA L2C images are stored rotated and mirrored, without a map grid; each pixel centre has a latitude and a
longitude. The map position of the stored pixels is inverted once for every pixel of a north-up UTM grid, and images
are then resampled in one step (Keys' cubic convolution), window by window and alike for every choice of windows.

GDAL's geolocation-array warp is not used: it takes such arrays for the pixels' corners unless told otherwise (which
rasterio cannot do), and when it is given windows of an array, results near their edges move by pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D, reproject_xy, utm_crs
from hsfuse.readers.blocks import BandIndex
from hsfuse.readers.geocode import Geocoder

TOLERANCE_PX = 0.01
MAX_ITERATIONS = 50

FloatPlane = NDArray[np.float64]

_HINT = "Order the L2D product of the same acquisition; it comes on a map grid."


class SwathGeocoder(Geocoder):
    """Puts a swath image on a north-up UTM grid.

    Parameters
    ----------
    longitude, latitude
        Degrees, pixel centres, shape (row, col) of the stored image.
    pixel_m
        Pixel size of the grid.
    name
        What error messages call the product.
    hint
        What to do when it cannot be geocoded.

    Attributes
    ----------
    grid
        The target grid: the UTM zone of the image's middle, edges on multiples of the pixel size.
    planes
        Stored row and column of every pixel of the grid, continued beyond the stored image.

    Raises
    ------
    InputError
        The arrays are not a plausible, regular swath.
    """

    def __init__(
        self,
        longitude: NDArray[np.floating],
        latitude: NDArray[np.floating],
        *,
        pixel_m: float,
        name: str,
        hint: str = _HINT,
    ) -> None:
        self._name, self._hint = name, hint
        lon, lat = np.asarray(longitude, dtype=np.float64), np.asarray(latitude, dtype=np.float64)
        if lon.size and np.ptp(lon) > 180:
            # Across the 180th meridian, longitudes run on beyond it.
            lon = np.where(lon < 0, lon + 360, lon)
        self._check_range(lon, lat)
        self.shape: tuple[int, int] = (lon.shape[0], lon.shape[1])
        crs = utm_crs(float(np.median(lon)), float(np.median(lat)))
        x, y = reproject_xy(CRS.from_epsg(4326), crs, lon, lat)
        to_pixels = self._check_regular(x, y, pixel_m)
        left = np.floor(x.min() / pixel_m - 0.5) * pixel_m
        top = np.ceil(y.max() / pixel_m + 0.5) * pixel_m
        width = int(np.ceil((x.max() - left) / pixel_m + 0.5))
        height = int(np.ceil((top - y.min()) / pixel_m + 0.5))
        self.grid = Grid.from_origin(crs, float(left), float(top), pixel_m, height, width)
        self.planes = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
        for block in self.grid.row_blocks(128):
            for plane, found in zip(self.planes, self._invert(x, y, to_pixels, block), strict=True):
                plane[block.slices] = found

    def _fail(self, problem: str) -> InputError:
        return InputError(
            f"{self._name}: the image cannot be geocoded because {problem}.",
            hint=self._hint,
        )

    def _check_range(self, lon: FloatPlane, lat: FloatPlane) -> None:
        if lon.shape != lat.shape or lon.ndim != 2 or min(lon.shape) < 2:
            raise self._fail("its latitude and longitude arrays have no usable shape")
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise self._fail("its latitude and longitude arrays have gaps")
        if np.abs(lat).max() > 84 or np.abs(lon).max() > 360 or np.ptp(lon) > 90:
            raise self._fail("its latitudes or longitudes are out of range")

    def _check_regular(self, x: FloatPlane, y: FloatPlane, pixel_m: float) -> FloatPlane:
        """Return the mean matrix from metres to stored (row, col), checked to hold nearly everywhere.

        Where the local change of position differs from the mean one by less than half a pixel per pixel, the
        iteration of :meth:`_invert` is a contraction and finds the only solution.
        """
        down = np.stack([np.diff(x, axis=0)[:, :-1], np.diff(y, axis=0)[:, :-1]])
        right = np.stack([np.diff(x, axis=1)[:-1], np.diff(y, axis=1)[:-1]])
        mean = np.stack([down.mean(axis=(1, 2)), right.mean(axis=(1, 2))], axis=1)
        steps = np.hypot(mean[0], mean[1])
        if abs(np.linalg.det(mean)) < 0.25 * pixel_m**2 or steps.max() > 2 * pixel_m:
            raise self._fail("its latitude and longitude arrays are not a regular swath")
        to_pixels: FloatPlane = np.linalg.inv(mean)
        for local, unit in ((down, (1.0, 0.0)), (right, (0.0, 1.0))):
            change = np.tensordot(to_pixels, local, axes=1) - np.array(unit)[:, None, None]
            if np.abs(change).max() > 0.25:
                raise self._fail("its latitude and longitude arrays are not a regular swath")
        return to_pixels

    def _invert(
        self, x: FloatPlane, y: FloatPlane, to_pixels: FloatPlane, block: Slice2D
    ) -> tuple[FloatPlane, FloatPlane]:
        """Stored (row, col) of the pixel centres of a block of the grid, continued beyond the stored image."""
        rows, cols = self.shape
        middle = (rows - 1) / 2, (cols - 1) / 2
        want_x, want_y = np.broadcast_arrays(
            *self.grid.crop(block).xy(
                np.arange(block.shape[0], dtype=float)[:, None], np.arange(block.shape[1], dtype=float)
            )
        )
        centre_x, centre_y = _bilinear(x, *middle), _bilinear(y, *middle)
        row = middle[0] + to_pixels[0, 0] * (want_x - centre_x) + to_pixels[0, 1] * (want_y - centre_y)
        col = middle[1] + to_pixels[1, 0] * (want_x - centre_x) + to_pixels[1, 1] * (want_y - centre_y)
        for _ in range(MAX_ITERATIONS):
            off_x, off_y = want_x - _bilinear(x, row, col), want_y - _bilinear(y, row, col)
            step_row = to_pixels[0, 0] * off_x + to_pixels[0, 1] * off_y
            step_col = to_pixels[1, 0] * off_x + to_pixels[1, 1] * off_y
            row, col = row + step_row, col + step_col
            inside = (row >= -0.5) & (row < rows - 0.5) & (col >= -0.5) & (col < cols - 0.5)
            near = inside & (np.maximum(np.abs(step_row), np.abs(step_col)) > TOLERANCE_PX)
            if not near.any():
                break
        else:
            raise self._fail("its latitude and longitude arrays cannot be inverted")
        return row, col

    def positions(self, block: Slice2D) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Stored (row, col) of the pixel centres of a block of the grid; NaN outside the stored image."""
        row, col = (plane[block.slices] for plane in self.planes)
        rows, cols = self.shape
        inside = (row >= -0.5) & (row < rows - 0.5) & (col >= -0.5) & (col < cols - 0.5)
        return np.where(inside, row, np.float32(np.nan)), np.where(inside, col, np.float32(np.nan))


class SwathPixels:
    """Where the stored pixels of a swath lie, seen from the map grid that it was put on.

    Parameters
    ----------
    geocoder
        What found it out.
    """

    def __init__(self, geocoder: SwathGeocoder) -> None:
        self._geocoder = geocoder

    @property
    def crs(self) -> CRS:
        """Reference system of the map grid."""
        return self._geocoder.grid.crs

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) as they are stored."""
        return self._geocoder.shape

    @property
    def is_smooth(self) -> bool:
        """False: positions follow the terrain and the motion of the platform."""
        return False

    def rowcol(
        self, x: NDArray[np.floating] | float, y: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional stored (row, col) of map coordinates; NaN outside the swath."""
        row, col = self._geocoder.grid.rowcol(x, y)
        height, width = self._geocoder.grid.shape
        with np.errstate(invalid="ignore"):
            outside = ~((row > -0.5) & (row < height - 0.5) & (col > -0.5) & (col < width - 0.5))
        row, col = np.where(outside, 0.0, row), np.where(outside, 0.0, col)
        at_row, at_col = (_bilinear(plane, row, col) for plane in self._geocoder.planes)
        return np.where(outside, np.nan, at_row), np.where(outside, np.nan, at_col)


class StoredSwath:
    """A swath image as it is stored, with where its pixels lie; see :class:`~hsfuse.readers.base.PixelSource`.

    Parameters
    ----------
    geocoder
        Its geocoder.
    read, valid
        What the methods of these names do.
    """

    def __init__(
        self,
        geocoder: SwathGeocoder,
        read: Callable[[Slice2D, BandIndex], NDArray[np.float32]],
        valid: Callable[[Slice2D], NDArray[np.bool_]],
    ) -> None:
        self._pixels, self._read, self._valid = SwathPixels(geocoder), read, valid

    @property
    def grid(self) -> SwathPixels:
        """Where the stored pixels lie."""
        return self._pixels

    def read(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.float32]:
        """Read reflectance of stored rows and columns, shape (band, row, col)."""
        return self._read(block, bands)

    def valid(self, block: Slice2D) -> NDArray[np.bool_]:
        """Pixels with data, shape (row, col)."""
        return self._valid(block)


def _bilinear(plane: NDArray[np.floating], row: FloatPlane | float, col: FloatPlane | float) -> FloatPlane:
    """Values at fractional positions; linear beyond the edge."""
    row, col = np.asarray(row, dtype=np.float64), np.asarray(col, dtype=np.float64)
    r = np.clip(np.floor(row), 0, plane.shape[0] - 2).astype(np.int64)
    c = np.clip(np.floor(col), 0, plane.shape[1] - 2).astype(np.int64)
    u, v = row - r, col - c
    upper = plane[r, c] * (1 - v) + plane[r, c + 1] * v
    lower = plane[r + 1, c] * (1 - v) + plane[r + 1, c + 1] * v
    value: FloatPlane = upper * (1 - u) + lower * u
    return value
