"""Any GeoTIFF, ENVI or other GDAL raster with wavelengths as a hyperspectral cube."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, HyperspectralProduct, PixelSource, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.readers.geocode import PixelGeocoder
from hsfuse.readers.map_grid import OrientedPixels
from hsfuse.readers.overlap import DEFAULT_CUT_NM, OverlapReport, cut_overlap, detectors_of
from hsfuse.readers.raster.band_order import check_order
from hsfuse.readers.raster.file import RasterFile
from hsfuse.readers.raster.metadata import BandMetadata, band_table
from hsfuse.spectral import BandTable


class RasterHsi(HyperspectralProduct):
    """A raster with wavelengths as a hyperspectral product.

    Parameters
    ----------
    path
        GeoTIFF, ENVI file (or its ``.hdr``) or anything else that GDAL reads. One that is rotated, south-up, in degrees
        or not square is seen from a metric grid around it; see :attr:`stored_pixels`.
    cut_nm
        Where two detectors overlap (their wavelengths run up twice in the file), the first is used up to here and
        the second above.
    declared
        What the user says of the file, over what it says itself.

    Raises
    ------
    InputError
        The file cannot be read, has no map grid or no plausible wavelengths.
    """

    def __init__(self, path: Path | str, *, cut_nm: float = DEFAULT_CUT_NM, declared: Declarations = NOTHING) -> None:
        self._raster = RasterFile(Path(path), strict=True, declared=declared, any_grid=True)
        try:
            metadata = self._raster.metadata()
            if not metadata.named:
                # Lists are what the producer wrote; GDAL makes the other items of them.
                problems = sorted(metadata.problems, key=lambda text: " lists " not in text)
                reason = problems[0] if problems else "The file names no wavelengths."
                raise InputError(
                    f"{path}: {reason[0].lower()}{reason[1:-1]}, so it cannot serve as a hyperspectral cube.",
                    hint="Give --wavelengths FILE, or put 'wavelength = {...}' and 'wavelength units = Nanometers' "
                    "into an ENVI .hdr beside it.",
                )
            self._raster.warnings += metadata.problems
            self._bands, self._overlap = self._make_bands(metadata, cut_nm)
            check_order(self._raster, metadata.centre_nm)
        except BaseException:
            self._raster.close()
            raise
        pixels = self._raster.pixels
        self._geocoder = None if pixels is None else PixelGeocoder(self._raster.grid, pixels)
        self._stored = self if pixels is None else _StoredRaster(self._raster, self._bands, pixels)
        if pixels is not None:
            self._raster.warnings.append(
                f"The image is not north-up with square pixels in metres: it is warped to {self.grid.pixel_m:g} m in "
                f"{self.grid.crs.to_string()}, in the same resampling as the co-registration."
            )
        self._info = self._raster.info(
            {"wavelengths_from": metadata.source, "overlap": self._overlap.to_json(), "panchromatic": False}
        )

    def _make_bands(self, metadata: BandMetadata, cut_nm: float) -> tuple[BandTable, OverlapReport]:
        centre, fwhm, good = metadata.centre_nm, metadata.fwhm_nm, metadata.good
        named = np.flatnonzero(centre != 0)
        if named.size < centre.size:
            self._raster.warnings.append(f"{centre.size - named.size} bands with wavelength 0 were left out.")
        if fwhm is not None and not np.all(fwhm[named] > 0):
            self._raster.warnings.append("The widths (FWHM) are not all positive; they were taken from the spacing.")
            fwhm = None
        if fwhm is None:
            # The spacing has to be taken within sorted wavelengths.
            order = np.argsort(centre[named], kind="stable")
            fwhm = np.zeros(centre.size)
            fwhm[named[order]] = np.maximum(np.abs(np.gradient(centre[named][order])), 1.0) if named.size > 1 else 10.0
        if named.size > 1 and np.ptp(centre[named]) == 0:
            raise InputError(
                f"{self._raster.path}: all {named.size} bands have the same wavelength ({centre[named][0]:g} nm).",
                hint="Check the wavelength list in the input's metadata.",
            )
        bands = band_table(
            self._raster.path,
            centre[named],
            fwhm[named],
            detector=detectors_of(centre[named]),
            slot=named,
            good=good[named],
        )
        return cut_overlap(bands, cut_nm)

    def close(self) -> None:
        """Close the file."""
        self._raster.close()

    @property
    def info(self) -> ProductInfo:
        """Facts about the file; ``warnings`` name every guess."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the cube."""
        return self._raster.grid

    @property
    def bands(self) -> BandTable:
        """Bands, ascending in wavelength; ``slot`` is the place in the file (from 0)."""
        return self._bands

    @property
    def overlap_report(self) -> OverlapReport:
        """Which bands the cut between two detectors dropped."""
        return self._overlap

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data."""
        if self._geocoder is None:
            return self._raster.read(self._bands.slot[band_index(bands, len(self._bands))], block)
        wanted = band_index(bands, len(self._bands))
        check_block(block, self.grid.shape)
        out = np.full((wanted.size, *block.shape), np.nan, dtype=np.float32)
        source = self._geocoder.source_block(block)
        if source is not None:
            for group in self._geocoder.band_groups(source, wanted.size):
                stored = self._raster.read(self._bands.slot[wanted[group]], source)
                out[group] = self._geocoder.resample(stored, source, block)
        return out

    @property
    def stored_pixels(self) -> PixelSource:
        """The image as it is stored; the product itself where that is a map grid."""
        return self._stored

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels with data, shape (row, col), judged by bands spread over the spectrum."""
        if self._geocoder is None:
            return self._raster.valid(block)
        check_block(block, self.grid.shape)
        source = self._geocoder.source_block(block)
        if source is None:
            return np.zeros(block.shape, dtype=np.bool_)
        mask = self._raster.valid(source).astype(np.uint8)[None]
        return np.asarray(self._geocoder.resample_codes(mask, source, block)[0], dtype=np.bool_)

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """None: rasters carry no error codes."""
        return None


class _StoredRaster:
    """Reflectance of a raster's own rows and columns, in the order of the product's bands."""

    def __init__(self, raster: RasterFile, bands: BandTable, pixels: OrientedPixels) -> None:
        self._raster, self._bands, self._pixels = raster, bands, pixels

    @property
    def grid(self) -> OrientedPixels:
        return self._pixels

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        return self._raster.read(self._bands.slot[band_index(bands, len(self._bands))], block)

    def valid(self, block: Slice2D) -> BoolArray:
        return self._raster.valid(block)
