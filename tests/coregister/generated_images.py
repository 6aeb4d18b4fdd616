"""Band-limited landscapes that are known at every position, as images behind the readers' protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import ProductInfo
from hsfuse.spectral import BandTable, SpectralResponse

UTM = CRS.from_epsg(32632)
LEFT, TOP = 600_000.0, 5_000_000.0
FINE_M, COARSE_M, RATIO = 10.0, 30.0, 3
SHORTEST_M = 75.0
FWHM_M = 37.5


@dataclass(frozen=True)
class Image:
    """An array as a multispectral product."""

    cube: NDArray[np.float32]
    grid: Grid
    hidden: NDArray[np.bool_] | None = None
    responses: tuple[SpectralResponse, ...] | None = None
    info: ProductInfo = field(default_factory=lambda: ProductInfo("image", "test", "", Path()))

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(f"band {i}" for i in range(len(self.cube)))

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
        part = self.cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[list(bands)], dtype=np.float32)

    def cloud(self, block: Slice2D) -> NDArray[np.bool_] | None:
        return None if self.hidden is None else self.hidden[block.slices].copy()

    def classes(self, block: Slice2D) -> None:
        del block

    def close(self) -> None:
        pass


class Cube:
    """An image's bands repeated at given wavelengths, as a hyperspectral product."""

    def __init__(self, image: Image, bands: BandTable, like: Sequence[int]) -> None:
        self.grid, self.info, self.bands = image.grid, image.info, bands
        self._cube = image.cube[list(like)]

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
        part = self._cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[list(bands)], dtype=np.float32)

    def valid(self, block: Slice2D) -> NDArray[np.bool_]:
        return np.ones(block.shape, dtype=np.bool_)

    def error_codes(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        return None

    @property
    def stored_pixels(self) -> Self:
        return self

    def cloud(self, block: Slice2D) -> None:
        return None

    def panchromatic(self) -> None:
        return None

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


class Landscape:
    """A periodic landscape whose waves are all longer than two pixels of the coarse image.

    It is therefore known exactly between the samples, and a displaced image of it holds no interpolation error.
    """

    def __init__(self, seed: int, pixels: int, bands: int = 2) -> None:
        self.pixels = pixels
        rng = np.random.default_rng(seed)
        fy, fx = np.fft.fftfreq(pixels)[:, None], np.fft.rfftfreq(pixels)[None, :]
        self._fy, self._fx = fy, fx
        cycles = np.hypot(fy, fx) / FINE_M
        amplitude = np.where(cycles > 0, np.maximum(cycles, 1 / 3000.0) ** -1.3, 0.0) * (cycles < 1 / SHORTEST_M)
        self._spectra = []
        common = np.fft.rfft2(rng.normal(size=(pixels, pixels)))
        for _ in range(bands):
            own = np.fft.rfft2(rng.normal(size=(pixels, pixels)))
            spectrum = (0.8 * common + 0.6 * own) * amplitude
            spread = np.fft.irfft2(spectrum, s=(pixels, pixels)).std()
            self._spectra.append(spectrum * (0.05 / spread))

    def _image(self, dx_m: float, dy_m: float, fwhm_m: float) -> NDArray[np.float64]:
        """Ground at the pixels' positions plus (dx, dy), north up, seen with a Gaussian blur."""
        sigma = fwhm_m / 2.3548 / FINE_M
        blur = np.exp(-2.0 * (np.pi * sigma) ** 2 * (self._fy**2 + self._fx**2))
        move = np.exp(2j * np.pi * (self._fx * dx_m - self._fy * dy_m) / FINE_M)
        shape = (self.pixels, self.pixels)
        return 0.25 + np.stack([np.fft.irfft2(s * blur * move, s=shape) for s in self._spectra])

    def fine(self) -> Image:
        """The reference: 10 m, sharp, at its true place."""
        grid = Grid.from_origin(UTM, LEFT, TOP, FINE_M, self.pixels, self.pixels)
        return Image(self._image(0.0, 0.0, 0.0).astype(np.float32), grid)

    def coarse(self, dx_m: float, dy_m: float, *, margin: int = 0, noise: float = 0.0, seed: int = 0) -> Image:
        """The target: 30 m, blurred; what it shows lies (dx, dy) from where it claims.

        ``margin`` fine pixels are left out on each side (a multiple of three).
        """
        image = self._image(dx_m, dy_m, FWHM_M)
        # The middle of each coarse pixel is the middle of its central fine pixel.
        cut = image[:, margin : self.pixels - margin, margin : self.pixels - margin][:, 1::RATIO, 1::RATIO]
        size = cut.shape[1]
        cut = cut + noise * np.random.default_rng(seed).normal(size=cut.shape)
        left, top = LEFT + margin * FINE_M, TOP - margin * FINE_M
        return Image(cut.astype(np.float32), Grid.from_origin(UTM, left, top, COARSE_M, size, size))
