"""Multispectral images whose bands are files of their own: Landsat, cloud-optimised Sentinel-2, exports of bands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.decoder import DecoderError, decoder_warnings_are_errors
from hsfuse.readers.gdal import TIFF_DRIVERS, closed_world, gdal_name, open_image
from hsfuse.readers.geocode import PixelGeocoder
from hsfuse.readers.map_grid import OrientedPixels, seen_from_grid
from hsfuse.readers.placement import Placement
from hsfuse.spectral import SpectralResponse


@dataclass(frozen=True)
class BandFile:
    """One band.

    Attributes
    ----------
    path
        GeoTIFF of one layer.
    response
        Spectral response, with the band's name.
    scale, offset
        From stored numbers to reflectance.
    nodata
        Stored number of pixels without data.
    saturated
        Stored number whose true value is unknown; None where there is none.
    """

    path: Path
    response: SpectralResponse
    scale: float
    offset: float = 0.0
    nodata: float = 0.0
    saturated: float | None = None


@dataclass(frozen=True)
class MaskFile:
    """A layer of codes.

    Attributes
    ----------
    path
        GeoTIFF of one layer.
    hidden
        Tells of codes which hide the ground, shape (row, col) in and out.
    is_scl
        Whether the codes are Sentinel-2's scene classes.
    """

    path: Path
    hidden: Callable[[NDArray[Any]], BoolArray]
    is_scl: bool = False


class BandFileImage(MultispectralProduct):
    """Bands of one scene on grids that nest, coarser ones brought to the finest by bilinear interpolation.

    Images in degrees, in Web Mercator or not north-up are resampled to a metric grid (cubic convolution); all of them
    have to have the same pixels.

    Parameters
    ----------
    bands
        The bands, in reading order.
    mask
        Layer of clouds; None: there is none.
    describe
        Makes the facts about the product.
    hint
        What to do about damaged files.

    Raises
    ------
    InputError
        A file is damaged, has several layers or no usable map grid, or the grids do not nest.
    """

    def __init__(
        self, bands: Sequence[BandFile], mask: MaskFile | None, describe: Callable[[], ProductInfo], *, hint: str
    ) -> None:
        self._bands, self._mask, self._hint = tuple(bands), mask, hint
        self._lock = threading.Lock()
        self._files: dict[Path, DatasetReader] = {}
        self._pixels: dict[Path, OrientedPixels | None] = {}
        try:
            grids = {band.path: self._open(band.path) for band in self._bands}
            self._grid = min(grids.values(), key=lambda grid: grid.pixel_m)
            if mask is not None:
                grids[mask.path] = self._open(mask.path)
            self._places = {path: self._place(path, grid) for path, grid in grids.items()}
            self._geocoder = self._make_geocoder()
            self._info = describe() if self._geocoder is None else self._warped(describe())
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> Grid:
        try:
            with closed_world(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
                file = self._files[path] = open_image(gdal_name(path), TIFF_DRIVERS)
        except (RasterioError, OSError) as error:
            raise self._unreadable(path, error) from error
        if file.count != 1:
            raise InputError(f"{path}: {file.count} layers instead of a single band.", hint=self._hint)
        grid, self._pixels[path] = seen_from_grid(file, path)
        return grid

    def _make_geocoder(self) -> PixelGeocoder | None:
        """Return what resamples the bands, where they do not lie on a map grid."""
        kinds = list(dict.fromkeys(self._pixels.values()))
        if kinds == [None]:
            return None
        if len(kinds) > 1 or kinds[0] is None:
            raise InputError(
                f"{self._bands[0].path.parent}: the bands have different pixels, and are not north-up in metres.",
                hint="Download all of them with one resolution, best in a UTM reference system.",
            )
        return PixelGeocoder(self._grid, kinds[0])

    def _warped(self, info: ProductInfo) -> ProductInfo:
        said = f"The bands were resampled to {self._grid.pixel_m:g} m in {self._grid.crs.to_string()}."
        return replace(info, warnings=(*info.warnings, said))

    def _unreadable(self, path: Path, error: Exception) -> InputError:
        return InputError(f"{path}: the image cannot be read ({' '.join(str(error).split())}).", hint=self._hint)

    def _place(self, path: Path, grid: Grid) -> Placement:
        place = Placement.of(grid, self._grid) if grid.crs == self._grid.crs else None
        if place is None:
            finest = self._bands[0].path.name
            raise InputError(
                f"{path.name} does not lie on the grid of {finest}: another reference system, extent or pixel size.",
                hint="Give bands of one scene, as they were delivered together.",
            )
        return place

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the finest bands."""
        return self._grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in reading order."""
        return tuple(band.response.name for band in self._bands)

    @property
    def responses(self) -> tuple[SpectralResponse, ...]:
        """Spectral responses in reading order."""
        return tuple(band.response for band in self._bands)

    def _raw(self, path: Path, block: Slice2D) -> NDArray[Any]:
        try:
            # GDAL datasets are not thread-safe.
            with self._lock, closed_world(), decoder_warnings_are_errors():
                raw: NDArray[Any] = self._files[path].read(1, window=block.window)
        except (RasterioError, OSError, DecoderError) as error:
            raise self._unreadable(path, error) from error
        return raw

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data or the sensor was saturated."""
        check_block(block, self._grid.shape)
        wanted = band_index(bands, len(self._bands))
        out = np.full((wanted.size, *block.shape), np.nan, np.float32)
        for plane, index in zip(out, wanted, strict=True):
            band = self._bands[int(index)]
            place = self._places[band.path]
            source = self._source(place, block)
            if source is None:
                continue
            raw = self._raw(band.path, source)
            values = raw.astype(np.float32) * np.float32(band.scale) + np.float32(band.offset)
            empty = (raw == band.nodata) | ~np.isfinite(values)
            if band.saturated is not None:
                empty |= raw == band.saturated
            values[empty] = np.nan
            plane[:] = self._fine(place, values, source, block)
        return out

    def _source(self, place: Placement, block: Slice2D) -> Slice2D | None:
        """Stored pixels that a block needs; None where there are none."""
        if self._geocoder is not None:
            return self._geocoder.source_block(block)
        source = place.source(block, margin=0 if place.ratio == 1 else 1)
        return source if min(source.shape) > 0 else None

    def _fine(self, place: Placement, values: FloatCube, source: Slice2D, block: Slice2D) -> FloatCube:
        if self._geocoder is not None:
            seen: FloatCube = self._geocoder.resample(values[None], source, block)[0]
            return seen
        if place.ratio > 1:
            return place.bilinear(values, source, block)
        filled: FloatCube = np.full(block.shape, np.nan, np.float32)
        row, col = source.row0 + place.row0 - block.row0, source.col0 + place.col0 - block.col0
        filled[row : row + source.shape[0], col : col + source.shape[1]] = values
        return filled

    def _codes(self, block: Slice2D) -> NDArray[Any] | None:
        check_block(block, self._grid.shape)
        if self._mask is None:
            return None
        place = self._places[self._mask.path]
        if self._geocoder is not None:
            stored = self._geocoder.source_block(block)
            if stored is None:
                return np.zeros(block.shape, np.uint8)
            codes = self._raw(self._mask.path, stored)[None].astype(np.uint8)
            nearest: NDArray[np.uint8] = self._geocoder.resample_codes(codes, stored, block)[0]
            return nearest
        source = place.source(block)
        if min(source.shape) < 1:
            return np.zeros(block.shape, np.uint8)
        return place.nearest(self._raw(self._mask.path, source), source, block)

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels under cloud, cloud shadow or cirrus, shape (row, col); None without a mask."""
        codes = self._codes(block)
        return None if codes is None or self._mask is None else self._mask.hidden(codes)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classes of Sentinel-2; None where the mask holds other codes."""
        if self._mask is None or not self._mask.is_scl:
            return None
        codes = self._codes(block)
        return None if codes is None else np.asarray(codes, dtype=np.uint8)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
