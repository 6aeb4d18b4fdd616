"""Geocoding of swath images through their latitude and longitude arrays.

PRISMA L2C images are stored rotated and mirrored, without a map grid; each pixel has a latitude and a longitude.
They are put on a north-up UTM grid by GDAL's geolocation-array warp, block by block.

GDAL takes such arrays for the **upper left corners** of the pixels unless told otherwise, and rasterio cannot tell
it otherwise, whereas PRISMA gives centres. The arrays are therefore moved by half a pixel here, and every geocoder
checks itself when it is made: the pixels' own coordinates, geocoded like an image, must come out as the coordinates
of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D, reproject_xy, utm_crs

WGS84 = CRS.from_epsg(4326)
MARGIN_PX = 4
"""Swath pixels read around a block, enough for the cubic kernel."""
TOLERANCE_PX = 0.1


class SwathGeocoder:
    """Puts a swath image on a north-up UTM grid.

    Parameters
    ----------
    longitude, latitude
        Degrees, pixel centres, shape (row, col) of the stored image.
    pixel_m
        Pixel size of the grid.
    name
        What error messages call the product.

    Attributes
    ----------
    grid
        The target grid: the UTM zone of the image's middle, edges on multiples of the pixel size.

    Raises
    ------
    InputError
        The arrays are not a plausible, regular swath, or the warp does not reproduce them.
    """

    def __init__(
        self, longitude: NDArray[np.floating], latitude: NDArray[np.floating], *, pixel_m: float, name: str
    ) -> None:
        self._name = name
        lon, lat = np.asarray(longitude, dtype=np.float64), np.asarray(latitude, dtype=np.float64)
        self._check_range(lon, lat)
        self._lon, self._lat = _upper_left(lon), _upper_left(lat)
        crs = utm_crs(float(np.median(lon)), float(np.median(lat)))
        self._x, self._y = reproject_xy(WGS84, crs, lon, lat)
        self._check_regular(pixel_m)
        left = np.floor(self._x.min() / pixel_m - 0.5) * pixel_m
        top = np.ceil(self._y.max() / pixel_m + 0.5) * pixel_m
        width = int(np.ceil((self._x.max() - left) / pixel_m + 0.5))
        height = int(np.ceil((top - self._y.min()) / pixel_m + 0.5))
        self.grid = Grid.from_origin(crs, float(left), float(top), pixel_m, height, width)
        self._check_warp()

    def _fail(self, problem: str) -> InputError:
        return InputError(
            f"{self._name}: the image cannot be geocoded because {problem}.",
            hint="Order the L2D product of the same acquisition; it comes on a map grid.",
        )

    def _check_range(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> None:
        if lon.shape != lat.shape or lon.ndim != 2 or min(lon.shape) < 2:
            raise self._fail("its latitude and longitude arrays have no usable shape")
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise self._fail("its latitude and longitude arrays have gaps")
        if np.abs(lat).max() > 84 or np.abs(lon).max() > 180 or np.ptp(lon) > 90:
            raise self._fail("its latitudes or longitudes are out of range")

    def _check_regular(self, pixel_m: float) -> None:
        """Neighbours must lie about one pixel apart and turn the same way everywhere."""
        du = np.stack([np.diff(self._x, axis=0)[:, :-1], np.diff(self._y, axis=0)[:, :-1]])
        dv = np.stack([np.diff(self._x, axis=1)[:-1], np.diff(self._y, axis=1)[:-1]])
        area = du[0] * dv[1] - du[1] * dv[0]
        one_way = (area > 0).all() or (area < 0).all()
        if not one_way or not 0.25 < np.median(np.abs(area)) / pixel_m**2 < 4:
            raise self._fail("its latitude and longitude arrays are not a regular swath")

    def _check_warp(self) -> None:
        """Geocode the pixels' own coordinates, thinned to strips, and compare them with the grid's."""
        strip = max(1, min(64, self.grid.height))
        worst: list[float] = []
        for row0 in np.unique(np.linspace(0, self.grid.height - strip, 5).astype(int)):
            block = Slice2D(int(row0), int(row0) + strip, 0, self.grid.width)
            source = self.source_block(block)
            if source is None:
                continue
            x0, y0 = self.grid.transform.c, self.grid.transform.f
            planes = np.stack([self._x[source.slices] - x0, self._y[source.slices] - y0])
            got = self._warp(planes, source, block, Resampling.bilinear)
            x, y = self.grid.crop(block).xy(
                np.arange(strip, dtype=float)[:, None], np.arange(self.grid.width, dtype=float)
            )
            off = np.hypot(got[0] - (x - x0), got[1] - (y - y0))
            inside = off[np.isfinite(off)]
            if inside.size:
                # The outermost half pixel is extrapolated; it may be off by that much.
                worst += [float(np.median(inside)), float(np.quantile(inside, 0.95))]
        if not worst or max(worst) > TOLERANCE_PX * self.grid.pixel_m:
            found = f"{max(worst):.1f} m" if worst else "everywhere"
            raise self._fail(f"the warp through its latitude and longitude arrays is off by {found}")

    def source_block(self, block: Slice2D) -> Slice2D | None:
        """Return the part of the stored image that a block of the grid needs; None when it lies outside."""
        bounds = self.grid.crop(block).bounds.buffer(self.grid.pixel_m)
        near = (
            (self._x >= bounds.left) & (self._x <= bounds.right) & (self._y >= bounds.bottom) & (self._y <= bounds.top)
        )
        rows, cols = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if rows.size == 0:
            return None
        grown = Slice2D(
            int(rows[0]) - MARGIN_PX, int(rows[-1]) + 1 + MARGIN_PX,
            int(cols[0]) - MARGIN_PX, int(cols[-1]) + 1 + MARGIN_PX,
        )  # fmt: skip
        return grown.clipped(*self._x.shape)

    def resample(self, cube: NDArray[np.float32], source: Slice2D, block: Slice2D) -> NDArray[np.float32]:
        """Resample bands (cubic), shape (band, row, col); NaN in the stored image spreads to what needs it."""
        return self._warp(cube, source, block, Resampling.cubic).astype(np.float32, copy=False)

    def resample_codes(self, codes: NDArray[np.uint8], source: Slice2D, block: Slice2D) -> NDArray[np.uint8]:
        """Resample codes or masks (nearest neighbour), shape (band, row, col); 0 outside the swath."""
        out = np.zeros((codes.shape[0], *block.shape), dtype=np.uint8)
        self._run(codes, out, source, block, Resampling.nearest, nodata=None)
        return out

    def _warp(
        self, planes: NDArray[np.floating], source: Slice2D, block: Slice2D, resampling: Resampling
    ) -> NDArray[np.floating]:
        out = np.full((planes.shape[0], *block.shape), np.nan, dtype=planes.dtype)
        self._run(planes, out, source, block, resampling, nodata=float("nan"))
        return out

    def _run(
        self,
        planes: NDArray[np.generic],
        out: NDArray[np.generic],
        source: Slice2D,
        block: Slice2D,
        resampling: Resampling,
        *,
        nodata: float | None,
    ) -> None:
        target = self.grid.crop(block)
        reproject(
            np.ascontiguousarray(planes),
            out,
            src_crs=WGS84,
            src_geoloc_array=np.stack([self._lon[source.slices], self._lat[source.slices]]),
            src_nodata=nodata,
            dst_crs=target.crs,
            dst_transform=target.transform,
            dst_nodata=nodata,
            resampling=resampling,
            num_threads=1,
        )

    def band_groups(self, source: Slice2D, count: int, limit_bytes: int = 64 << 20) -> Iterator[slice]:
        """Cut ``count`` bands into groups whose stored window stays below a size in memory."""
        rows, cols = source.shape
        step = max(1, limit_bytes // (4 * rows * cols))
        for first in range(0, count, step):
            yield slice(first, min(first + step, count))


def _upper_left(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at the upper left corners of pixels whose centres are given (linear beyond the edge)."""
    padded = np.pad(centres, 1, mode="reflect", reflect_type="odd")
    corners: NDArray[np.float64] = 0.25 * (
        padded[:-2, :-2] + padded[1:-1, :-2] + padded[:-2, 1:-1] + padded[1:-1, 1:-1]
    )
    return corners
