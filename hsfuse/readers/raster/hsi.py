"""Any GeoTIFF, ENVI or other GDAL raster with wavelengths as a hyperspectral cube."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, HyperspectralProduct, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index
from hsfuse.readers.declarations import NOTHING, Declarations
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
        GeoTIFF, ENVI file (or its ``.hdr``) or anything else that GDAL reads: north-up, projected, square pixels.
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
        self._raster = RasterFile(Path(path), strict=True, declared=declared)
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
        return self._raster.read(self._bands.slot[band_index(bands, len(self._bands))], block)

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels with data, shape (row, col), judged by bands spread over the spectrum."""
        return self._raster.valid(block)

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """None: rasters carry no error codes."""
        return None
