"""EMIT L2A reflectance: windows of a swath that is geocoded through its latitude and longitude arrays.

The file's own geometry lookup table leads to a grid in degrees by nearest neighbours, which would have to be resampled
again; here the stored pixels are resampled once (cubic convolution) to a UTM grid of 60 m. The positions are those of
the terrain-corrected geolocation that the file brings.
"""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, HyperspectralProduct, PixelSource, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.geolocate import StoredSwath, SwathGeocoder
from hsfuse.readers.hdf5_file import DAMAGED, Hdf5File
from hsfuse.readers.xml import time_of
from hsfuse.spectral import BandTable

PIXEL_M = 60.0
_HINT = "Download the product again; hsfuse needs the original EMIT_L2A_RFL netCDF file."
_FILL = -9999.0
_BANDS = "sensor_band_parameters"
_CLOUD, _CIRRUS, _DILATED = 0, 1, 4
"""Layers of the mask file: cloud, cirrus, cloud with a margin."""


def looks_like_emit(path: Path) -> bool:
    """Tell whether an HDF5 file holds what an EMIT reflectance product holds."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "reflectance" in file and "location" in file and _BANDS in file
    except DAMAGED:
        return False


class EmitProduct(HyperspectralProduct):
    """An EMIT L2A reflectance product.

    Parameters
    ----------
    path
        ``EMIT_L2A_RFL_*.nc``; ``EMIT_L2A_MASK_*.nc`` of the same scene beside it gives the clouds.

    Raises
    ------
    InputError
        The file is damaged, something is missing, or its positions are no regular swath.
    """

    def __init__(self, path: Path) -> None:
        self._file = Hdf5File(path, mission="EMIT", suffix=".nc", hint=_HINT)
        try:
            self._cube = self._file.dataset("reflectance", ndim=3)
            self._bands = self._read_bands()
            self._geocoder = self._make_geocoder()
            self._clouds, warnings = self._read_clouds()
            self._info = self._describe(warnings)
        except BaseException:
            self._file.close()
            raise

    def _vector(self, name: str) -> NDArray[np.float64]:
        values = self._file.read(self._file.dataset(f"{_BANDS}/{name}", ndim=1), slice(None))
        if values.size != self._cube.shape[2]:
            raise InputError(
                f"{self._file.path}: '{_BANDS}/{name}' has {values.size} entries for {self._cube.shape[2]} bands.",
                hint=_HINT,
            )
        rounded: NDArray[np.float64] = np.asarray(np.round(values, 4), dtype=np.float64)
        return rounded

    def _read_bands(self) -> BandTable:
        centre, fwhm = self._vector("wavelengths"), self._vector("fwhm")
        good = self._vector("good_wavelengths") > 0 if self._file.has(f"{_BANDS}/good_wavelengths") else None
        if not np.all((centre > 350) & (centre < 2600) & (fwhm > 0) & (fwhm < 100)) or np.any(np.diff(centre) <= 0):
            raise InputError(f"{self._file.path}: the wavelengths and widths are not EMIT's.", hint=_HINT)
        return BandTable.make(centre, fwhm, good=good)

    def _make_geocoder(self) -> SwathGeocoder:
        planes = []
        for name in ("lon", "lat"):
            dataset = self._file.dataset(f"location/{name}", ndim=2)
            if dataset.shape != self._cube.shape[:2]:
                raise InputError(
                    f"{self._file.path}: 'location/{name}' has {dataset.shape} pixels, the image "
                    f"{self._cube.shape[:2]}.",
                    hint=_HINT,
                )
            planes.append(self._file.read(dataset, slice(None)))
        hint = "Orthorectify it with NASA's own tool, and give the GeoTIFF with its wavelengths."
        return SwathGeocoder(*planes, pixel_m=PIXEL_M, name=str(self._file.path), hint=hint)

    def _read_clouds(self) -> tuple[NDArray[np.uint8] | None, list[str]]:
        """Cloud and cirrus of the mask file of the same scene, in stored rows and columns."""
        path = self._file.path
        beside = path.with_name(re.sub("_RFL_", "_MASK_", path.name, count=1))
        if beside == path or not beside.is_file():
            return None, ["The mask file (EMIT_L2A_MASK_*.nc) is not beside the product: clouds are taken for ground."]
        other = Hdf5File(beside, mission="EMIT", suffix=".nc", hint=_HINT)
        try:
            mask = other.dataset("mask", ndim=3)
            if mask.shape[:2] != self._cube.shape[:2] or mask.shape[2] <= _DILATED:
                raise InputError(
                    f"{beside}: the mask has the shape {mask.shape}, the image {self._cube.shape[:2]}.",
                    hint="The two files belong to different scenes.",
                )
            layers = [other.read(mask, (slice(None), slice(None), layer)) for layer in (_CLOUD, _CIRRUS, _DILATED)]
        finally:
            other.close()
        return np.asarray(np.any(np.stack(layers) == 1, axis=0), dtype=np.uint8), []

    def _describe(self, warnings: list[str]) -> ProductInfo:
        file = self._file
        return ProductInfo(
            name=file.path.name,
            sensor="EMIT",
            level="L2A",
            path=file.path,
            start=time_of(file.optional_text("time_coverage_start")),
            attributes={
                "epsg": self.grid.crs.to_epsg(),
                "product_version": file.optional_text("product_version"),
                "processor_version": file.optional_text("software_build_version"),
                "cloud_percent": None if self._clouds is None else round(100 * float(self._clouds.mean()), 2),
                "geocoded_from_swath": True,
                "panchromatic": False,
                "radiometry": "surface",
            },
            warnings=(
                "The cube was geocoded through its latitude and longitude arrays to a grid of 60 m.",
                *warnings,
            ),
        )

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the cube: 60 m, UTM."""
        return self._geocoder.grid

    @property
    def bands(self) -> BandTable:
        """Bands in file order; those without ``good_wavelengths`` (absorption by water vapour) are not good."""
        return self._bands

    def _stored(self, source: Slice2D, bands: NDArray[np.int64]) -> FloatCube:
        """Read a window of the swath, shape (band, row, col)."""
        first, last = int(bands.min()), int(bands.max()) + 1
        rows, cols = source.slices
        values = self._file.read(self._cube, (rows, cols, slice(first, last))).astype(np.float32)
        values[(values == _FILL) | ~np.isfinite(values)] = np.nan
        return np.ascontiguousarray(np.moveaxis(values, 2, 0)[bands - first])

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN outside the swath and where there is no data."""
        wanted = band_index(bands, len(self._bands))
        check_block(block, self.grid.shape)
        out = np.full((wanted.size, *block.shape), np.nan, dtype=np.float32)
        source = self._geocoder.source_block(block)
        if source is not None and wanted.size:
            for group in self._geocoder.band_groups(source, wanted.size):
                out[group] = self._geocoder.resample(self._stored(source, wanted[group]), source, block)
        return out

    @property
    def stored_pixels(self) -> PixelSource:
        """The image in stored rows and columns."""

        def read(block: Slice2D, bands: BandIndex) -> FloatCube:
            return self._stored(block, band_index(bands, len(self._bands)))

        return StoredSwath(self._geocoder, read, self._known)

    def _known(self, source: Slice2D) -> BoolArray:
        """Stored pixels with data in a band in the middle of the spectrum, shape (row, col)."""
        middle = np.array([int(self._bands.nearest(850.0)[0])])
        return np.asarray(np.isfinite(self._stored(source, middle))[0], dtype=np.bool_)

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels inside the swath with data in a band in the middle of the spectrum, shape (row, col)."""
        check_block(block, self.grid.shape)
        source = self._geocoder.source_block(block)
        if source is None:
            return np.zeros(block.shape, dtype=np.bool_)
        known = self._known(source).astype(np.uint8)[None]
        return np.asarray(self._geocoder.resample_codes(known, source, block)[0], dtype=np.bool_)

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels under cloud (with its margin) or cirrus, shape (row, col); None without the mask file."""
        check_block(block, self.grid.shape)
        if self._clouds is None:
            return None
        source = self._geocoder.source_block(block)
        if source is None:
            return np.zeros(block.shape, dtype=np.bool_)
        codes = self._geocoder.resample_codes(self._clouds[None, *source.slices], source, block)
        return np.asarray(codes[0], dtype=np.bool_)

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """None: the product carries no error codes."""
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
