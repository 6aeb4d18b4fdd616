"""Any GeoTIFF, ENVI or other GDAL raster as a multispectral image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index
from hsfuse.readers.raster.file import RasterFile
from hsfuse.readers.raster.metadata import band_table
from hsfuse.readers.stored import StoredAs
from hsfuse.spectral import SpectralResponse


class RasterMsi(MultispectralProduct):
    """A raster as a multispectral product.

    Parameters
    ----------
    path
        GeoTIFF or anything else that GDAL reads: north-up, projected, square pixels.
    responses
        Spectral responses in the order of the bands. Without them, Gaussians from the file's wavelengths and
        widths; None when it has none.

    Raises
    ------
    InputError
        The file cannot be read or has no map grid.
    UsageError
        The number of responses is not the number of bands.
    """

    def __init__(self, path: Path | str, *, responses: Sequence[SpectralResponse] | None = None) -> None:
        self._raster = RasterFile(Path(path))
        try:
            self._names = self._raster.names()
            self._responses = self._make_responses(responses)
        except BaseException:
            self._raster.close()
            raise
        self._info = self._raster.info({})

    def _make_responses(self, given: Sequence[SpectralResponse] | None) -> tuple[SpectralResponse, ...] | None:
        if given is not None:
            if len(given) != len(self._names):
                raise UsageError(
                    f"{self._raster.path}: {len(given)} spectral responses do not fit {len(self._names)} bands."
                )
            return tuple(given)
        metadata = self._raster.metadata()
        self._raster.warnings += metadata.problems
        if not metadata.named or metadata.fwhm_nm is None or not np.all(metadata.fwhm_nm > 0):
            self._raster.warnings.append(
                "The file names no wavelengths with widths, so the spectral responses of its bands are unknown."
            )
            return None
        band_table(self._raster.path, metadata.centre_nm, metadata.fwhm_nm)
        return tuple(
            SpectralResponse.gaussian(name, float(centre), float(fwhm))
            for name, centre, fwhm in zip(self._names, metadata.centre_nm, metadata.fwhm_nm, strict=True)
        )

    def close(self) -> None:
        """Close the file."""
        self._raster.close()

    @property
    def info(self) -> ProductInfo:
        """Facts about the file; ``warnings`` name every guess."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the image."""
        return self._raster.grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Band descriptions, or ``B1`` and so on."""
        return self._names

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Spectral responses in band order; None when unknown."""
        return self._responses

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data."""
        return self._raster.read(band_index(bands, len(self._names)), block)

    @property
    def stored(self) -> StoredAs:
        """How the file stores its numbers."""
        return self._raster.stored()

    def cloud(self, block: Slice2D) -> BoolArray | None:  # noqa: ARG002
        """None: rasters carry no cloud mask."""
        return None

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """None: rasters carry no scene classification."""
        return None
