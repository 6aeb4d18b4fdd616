"""A small scene of which everything is known: truth, HSI, MSI, responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.grid import Grid
from hsfuse.metrics import Evidence
from hsfuse.sensors.sentinel2 import table_responses
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights

MSI_BANDS = ("B02", "B03", "B04", "B08")
FloatCube = NDArray[np.float32]


@dataclass(frozen=True)
class SmallScene:
    """A pair without noise, shift, cloud or nodata, and its truth.

    Attributes
    ----------
    truth
        Reflectance at the MSI's resolution, shape (band, row * ratio, col * ratio).
    hsi
        The truth seen by the hyperspectral sensor, shape (band, row, col).
    msi
        The truth seen by Sentinel-2, shape (msi band, row * ratio, col * ratio).
    bands, responses
        Bands of the HSI and responses of the MSI.
    grid, fine_grid
        Grids of the HSI and of the MSI.
    psf, ratio
        PSF of the HSI, and pixel size of the HSI over that of the MSI.
    """

    truth: FloatCube
    hsi: FloatCube
    msi: FloatCube
    bands: BandTable
    responses: tuple[SpectralResponse, ...]
    grid: Grid
    fine_grid: Grid
    psf: Psf
    ratio: int

    @cached_property
    def srf(self) -> NDArray[np.float64]:
        """Weights that turn the bands of the HSI into those of the MSI, shape (msi band, band)."""
        return srf_weights(self.bands, self.responses)

    @property
    def context(self) -> FusionContext:
        """What a method is told about the pair."""
        return FusionContext(self.ratio, self.bands.centre_nm, self.bands.fwhm_nm, self.srf, self.psf)

    @property
    def strips(self) -> list[LowResolutionStrip]:
        """What a method learns from: the whole scene, as one strip."""
        low = lowpass_decimate_array(self.msi, self.ratio, self.psf)
        return [LowResolutionStrip(self.hsi, low, np.ones(self.grid.shape, bool), self.msi)]

    def evidence(self, fused: FloatCube, *, reference: bool) -> Evidence:
        """What a metric judges a cube by: the truth, or the pair."""
        valid = np.ones(self.fine_grid.shape, bool)
        if reference:
            return Evidence(fused, valid, self.ratio, self.psf, reference=self.truth)
        return Evidence(fused, valid, self.ratio, self.psf, hsi=self.hsi, msi=self.msi, srf=self.srf)

    def write_hsi(self, path: Path) -> Path:
        """Write the HSI as a GeoTIFF that hsfuse reads."""
        return _write(path, self.hsi, self.grid, self.bands.centre_nm, self.bands.fwhm_nm)

    def write_msi(self, path: Path) -> Path:
        """Write the MSI as a GeoTIFF that hsfuse reads."""
        centre = np.array([response.centre_nm for response in self.responses])
        width = np.array([float(np.ptp(response.range_nm)) for response in self.responses])
        return _write(path, self.msi, self.fine_grid, centre, width)


def small_scene(seed: int = 0, size_px: tuple[int, int] = (40, 36), *, ratio: int = 3, bands: int = 12) -> SmallScene:
    """Draw a scene; equal arguments give equal scenes.

    Parameters
    ----------
    seed
        Another seed, another landscape.
    size_px
        Rows and columns of the HSI.
    ratio
        Pixel size of the HSI over that of the MSI (10 m).
    bands
        Number of bands, from 440 to 900 nm.
    """
    fine = (size_px[0] * ratio, size_px[1] * ratio)
    drawn = training_scene(seed, fine, ratio, pixel_m=(10.0, 10.0))
    centre = np.linspace(440.0, 900.0, bands)
    table = BandTable.make(centre, np.full(bands, 12.0))
    responses = table_responses("Sentinel-2A", MSI_BANDS)
    truth = drawn.reflectance(table, drawn.grid.full)
    psf = Psf()
    corner = drawn.grid.transform
    grid = Grid.from_origin(drawn.grid.crs, corner.c, corner.f, drawn.grid.pixel_m * ratio, *size_px)
    return SmallScene(
        truth, lowpass_decimate_array(truth, ratio, psf), drawn.response(responses, drawn.grid.full), table, responses,
        grid, drawn.grid, psf, ratio,
    )  # fmt: skip


def _write(
    path: Path, cube: FloatCube, grid: Grid, centre_nm: NDArray[np.float64], fwhm_nm: NDArray[np.float64]
) -> Path:
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=len(cube), dtype="float32",
        crs=grid.crs, transform=grid.transform, nodata=float("nan"),
    ) as dataset:  # fmt: skip
        dataset.write(cube)
        for index, (centre, width) in enumerate(zip(centre_nm, fwhm_nm, strict=True), start=1):
            dataset.update_tags(index, wavelength=f"{centre:.6g}", wavelength_units="Nanometers", fwhm=f"{width:.6g}")
    return path
