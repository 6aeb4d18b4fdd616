"""A raster grid as one immutable value: coordinate reference system, affine transform, shape.

Rows grow downwards, columns to the right; ``transform`` maps (column, row) of **outer pixel corners** to map
coordinates, as GDAL does. Grids are north-up here: products with rotated or curvilinear grids are geocoded by
their readers first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from hsfuse.errors import OverlapError, UsageError


class PixelGeometry(Protocol):
    """Where the pixels of an image lie, be it a :class:`Grid` or not: what resampling it needs to know."""

    @property
    def crs(self) -> CRS:
        """Projected reference system in which the image is asked for, in metres."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        ...

    @property
    def is_smooth(self) -> bool:
        """Whether :meth:`rowcol` is straight to a few centimetres over some pixels, so that it may be interpolated."""
        ...

    def rowcol(
        self, x: NDArray[np.floating] | float, y: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional (row, col) of map coordinates; whole numbers are pixel centres, NaN lies outside."""
        ...


class Bounds(NamedTuple):
    """Outer extent in map units."""

    left: float
    bottom: float
    right: float
    top: float

    def intersect(self, other: Bounds) -> Bounds | None:
        """Return the shared extent, or None when there is none."""
        left, right = max(self.left, other.left), min(self.right, other.right)
        bottom, top = max(self.bottom, other.bottom), min(self.top, other.top)
        return Bounds(left, bottom, right, top) if left < right and bottom < top else None

    def buffer(self, distance_m: float) -> Bounds:
        """Return the extent grown by ``distance_m`` on each side."""
        return Bounds(self.left - distance_m, self.bottom - distance_m, self.right + distance_m, self.top + distance_m)


@dataclass(frozen=True)
class Slice2D:
    """A block of pixels: rows ``[row0, row1)`` and columns ``[col0, col1)``."""

    row0: int
    row1: int
    col0: int
    col1: int

    @classmethod
    def of(cls, rows: slice, cols: slice) -> Slice2D:
        """Return the block that :attr:`slices` would give as these."""
        return cls(rows.start, rows.stop, cols.start, cols.stop)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.row1 - self.row0, self.col1 - self.col0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for the last two axes of an array."""
        return slice(self.row0, self.row1), slice(self.col0, self.col1)

    @property
    def window(self) -> Window:
        """The same block as a rasterio window."""
        return Window(self.col0, self.row0, self.col1 - self.col0, self.row1 - self.row0)

    def scaled(self, ratio: int) -> Slice2D:
        """Return the block on a grid that is ``ratio`` times finer."""
        return Slice2D(self.row0 * ratio, self.row1 * ratio, self.col0 * ratio, self.col1 * ratio)

    def clipped(self, height: int, width: int) -> Slice2D:
        """Return the part that lies inside an array of ``height`` x ``width``."""
        row0, col0 = min(max(self.row0, 0), height), min(max(self.col0, 0), width)
        return Slice2D(row0, max(min(self.row1, height), row0), col0, max(min(self.col1, width), col0))

    def intersect(self, other: Slice2D) -> Slice2D | None:
        """Return the part that both share; None if they do not overlap."""
        row0, row1 = max(self.row0, other.row0), min(self.row1, other.row1)
        col0, col1 = max(self.col0, other.col0), min(self.col1, other.col1)
        return Slice2D(row0, row1, col0, col1) if row0 < row1 and col0 < col1 else None


@dataclass(frozen=True)
class Grid:
    """A north-up raster grid.

    Parameters
    ----------
    crs
        Coordinate reference system, projected, in metres for everything that measures distances.
    transform
        Affine transform of outer pixel corners.
    height, width
        Shape in pixels.
    """

    crs: CRS
    transform: Affine
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise OverlapError(f"A grid needs at least one pixel, not {self.height} x {self.width}.")
        t = self.transform
        if t.b != 0 or t.d != 0 or t.a <= 0 or t.e >= 0:
            raise UsageError("The raster is rotated or not north-up.", hint="Warp it to a north-up grid first.")

    @classmethod
    def from_origin(cls, crs: CRS, left: float, top: float, pixel_m: float, height: int, width: int) -> Grid:
        """Make a square-pixel grid from its outer upper-left corner."""
        return cls(crs, Affine(pixel_m, 0.0, left, 0.0, -pixel_m, top), height, width)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.height, self.width

    @property
    def pixel_m(self) -> float:
        """Pixel size (the mean of both axes) in map units."""
        return float((self.transform.a - self.transform.e) / 2)

    @property
    def is_smooth(self) -> bool:
        """True: map coordinates are an affine function of rows and columns."""
        return True

    @property
    def bounds(self) -> Bounds:
        """Outer extent in map units."""
        t = self.transform
        return Bounds(t.c, t.f + t.e * self.height, t.c + t.a * self.width, t.f)

    @property
    def full(self) -> Slice2D:
        """The block that covers the whole grid."""
        return Slice2D(0, self.height, 0, self.width)

    def xy(
        self, row: NDArray[np.floating] | float, col: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map coordinates of **pixel centres**: ``row = 0`` is the centre of the first row."""
        t = self.transform
        x = t.c + t.a * (np.asarray(col, dtype=np.float64) + 0.5)
        y = t.f + t.e * (np.asarray(row, dtype=np.float64) + 0.5)
        return x, y

    def rowcol(
        self, x: NDArray[np.floating] | float, y: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional (row, col) of map coordinates; whole numbers are pixel centres."""
        t = self.transform
        col = (np.asarray(x, dtype=np.float64) - t.c) / t.a - 0.5
        row = (np.asarray(y, dtype=np.float64) - t.f) / t.e - 0.5
        return row, col

    def crop(self, block: Slice2D) -> Grid:
        """Return the grid of a block of this one (the block may also reach outside)."""
        t = self.transform
        moved = Affine(t.a, 0.0, t.c + t.a * block.col0, 0.0, t.e, t.f + t.e * block.row0)
        return Grid(self.crs, moved, *block.shape)

    def pad(self, pixels: int) -> Grid:
        """Return the grid grown by ``pixels`` on each side."""
        return self.crop(Slice2D(-pixels, self.height + pixels, -pixels, self.width + pixels))

    def nested(self, ratio: int) -> Grid:
        """Return the grid with each pixel cut into ``ratio`` x ``ratio`` pixels."""
        t = self.transform
        fine = Affine(t.a / ratio, 0.0, t.c, 0.0, t.e / ratio, t.f)
        return Grid(self.crs, fine, self.height * ratio, self.width * ratio)

    def coarsened(self, ratio: int) -> Grid:
        """Return the grid of whole blocks of ``ratio`` x ``ratio`` pixels (a remainder is cut off)."""
        t = self.transform
        coarse = Affine(t.a * ratio, 0.0, t.c, 0.0, t.e * ratio, t.f)
        return Grid(self.crs, coarse, self.height // ratio, self.width // ratio)

    def block_of(self, bounds: Bounds, *, whole_pixels: bool = False) -> Slice2D:
        """Return the block that covers ``bounds``, clipped to the grid.

        Parameters
        ----------
        bounds
            Extent in this grid's map coordinates.
        whole_pixels
            Take only pixels that lie inside ``bounds`` altogether, rather than all that touch it.

        Raises
        ------
        OverlapError
            The extent and the grid share no pixel.
        """
        t = self.transform
        tolerance = 1e-6
        col0, col1 = (bounds.left - t.c) / t.a, (bounds.right - t.c) / t.a
        row0, row1 = (bounds.top - t.f) / t.e, (bounds.bottom - t.f) / t.e
        if whole_pixels:
            block = Slice2D(
                math.ceil(row0 - tolerance), math.floor(row1 + tolerance),
                math.ceil(col0 - tolerance), math.floor(col1 + tolerance),
            )  # fmt: skip
        else:
            block = Slice2D(
                math.floor(row0 + tolerance), math.ceil(row1 - tolerance),
                math.floor(col0 + tolerance), math.ceil(col1 - tolerance),
            )  # fmt: skip
        block = block.clipped(self.height, self.width)
        if min(block.shape) < 1:
            raise OverlapError("The requested extent lies outside the raster.")
        return block

    def bounds_in(self, crs: CRS) -> Bounds:
        """Return this grid's extent in another reference system (edges densified).

        Raises
        ------
        OverlapError
            It has none there: the systems belong to different parts of the world.
        """
        return reproject_bounds(self.crs, crs, self.bounds)

    def aligned_with(self, other: Grid, *, tolerance_px: float = 1e-3) -> bool:
        """Tell whether both grids share the reference system, pixel size and pixel edges."""
        if self.crs != other.crs or abs(self.pixel_m - other.pixel_m) > tolerance_px * self.pixel_m:
            return False
        col = (other.transform.c - self.transform.c) / self.transform.a
        row = (other.transform.f - self.transform.f) / self.transform.e
        return bool(abs(col - round(col)) < tolerance_px and abs(row - round(row)) < tolerance_px)

    def block_in(self, parent: Grid) -> Slice2D:
        """Return where this grid lies in an aligned parent grid, in the parent's pixels (may reach outside)."""
        if not parent.aligned_with(self):
            raise UsageError("The grids are not aligned.")
        col = round((self.transform.c - parent.transform.c) / parent.transform.a)
        row = round((self.transform.f - parent.transform.f) / parent.transform.e)
        return Slice2D(row, row + self.height, col, col + self.width)

    def row_blocks(self, rows: int) -> Iterator[Slice2D]:
        """Cut the grid into full-width blocks of at most ``rows`` rows, from the top."""
        for row0 in range(0, self.height, rows):
            yield Slice2D(row0, min(row0 + rows, self.height), 0, self.width)

    def covering(self, bounds: Bounds, ratio: int = 1) -> Grid:
        """Return the grid on this one's pixel edges, in blocks of ``ratio`` pixels, that lies inside ``bounds``.

        Edges fall on multiples of ``ratio`` pixels counted from this grid's origin, so that a coarse grid nests.
        """
        t = self.transform
        step_x, step_y = t.a * ratio, -t.e * ratio
        col0 = math.ceil((bounds.left - t.c) / step_x - 1e-6) * ratio
        col1 = math.floor((bounds.right - t.c) / step_x + 1e-6) * ratio
        row0 = math.ceil((t.f - bounds.top) / step_y - 1e-6) * ratio
        row1 = math.floor((t.f - bounds.bottom) / step_y + 1e-6) * ratio
        if row1 <= row0 or col1 <= col0:
            raise OverlapError("The inputs overlap by less than one pixel.")
        return self.crop(Slice2D(row0, row1, col0, col1))


def utm_crs(longitude_deg: float, latitude_deg: float) -> CRS:
    """Return the WGS 84 / UTM reference system of a place (no exceptions for Norway and Svalbard)."""
    zone = min(int((longitude_deg + 180.0) // 6.0) + 1, 60)
    return CRS.from_epsg((32600 if latitude_deg >= 0 else 32700) + zone)


def reproject_bounds(source: CRS, target: CRS, bounds: Bounds) -> Bounds:
    """Return an extent in another reference system (edges densified).

    Raises
    ------
    OverlapError
        It has none there.
    """
    if source == target:
        return bounds
    with _no_place(source, target):
        return Bounds(*transform_bounds(source, target, *bounds, densify_pts=21))


@contextmanager
def _no_place(source: CRS, target: CRS) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # GDAL's own errors have no public class in rasterio.
        raise OverlapError(
            f"Positions in {_short_name(source)} have no place in {_short_name(target)} ({error}).",
            hint="Check the reference systems and coordinates of the inputs.",
        ) from error


def _short_name(crs: CRS) -> str:
    return str(crs.to_string())[:80]


def reproject_xy(
    source: CRS, target: CRS, x: NDArray[np.floating], y: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform map coordinates; arrays of any (equal) shape.

    Raises
    ------
    OverlapError
        The coordinates have no place in the target system at all.
    """
    if source == target:
        return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    with _no_place(source, target):
        out_x, out_y = transform_points(source, target, xs.ravel(), ys.ravel())
    return np.asarray(out_x).reshape(xs.shape), np.asarray(out_y).reshape(ys.shape)
