"""Sentinel-2's view of a simulated scene: response functions, slight blur, noise, clouds, scene classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.grid import Grid, Slice2D
from hsfuse.sensors.sentinel2 import BAND_ORDER, RESOLUTION_M, table_responses
from hsfuse.simulate.mixtures import WATER
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import Clouds, gaussian_blur, top_of_atmosphere
from hsfuse.simulate.texture import FloatArray

SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER, SCL_MEDIUM, SCL_HIGH, SCL_CIRRUS = 3, 4, 5, 6, 8, 9, 10
_BY_RANK = np.array([SCL_VEGETATION, SCL_BARE, SCL_WATER, SCL_SHADOW, SCL_CIRRUS, SCL_MEDIUM, SCL_HIGH], dtype=np.uint8)
_RANK = np.zeros(12, dtype=np.uint8)
_RANK[_BY_RANK] = np.arange(_BY_RANK.size)
_MARGIN = 6


class Cover(Protocol):
    """Something between the ground and the sensor."""

    def cover(self, reflectance: FloatArray, wavelength_nm: ArrayLike, rows: slice, cols: slice) -> FloatArray:
        """Reflectance (band, row, col) of a block as seen through it."""
        ...


class Sentinel2Sensor:
    """Observes a scene on its own 10 m pixels.

    Parameters
    ----------
    truth
        The scene, on pixels of 10 m or a whole share of that.
    grid
        Grid of the product (10 m), aligned with the scene's; where it reaches beyond, the scene is mirrored.
    spacecraft
        Decides the response functions.
    psf_fwhm
        Width of the Gaussian point spread function in 10 m pixels.
    snr_scale
        Factor on the signal-to-noise ratio (about 200 over bright surfaces); infinity for none.
    clouds
        Clouds over the scene's grid; None for a clear sky.
    seed
        Of the noise.
    unmasked
        Clouds and haze that the scene classes do not know.
    above_air
        Whether it sees reflectance of the top of the atmosphere instead of the surface's.
    """

    def __init__(
        self,
        truth: Truth,
        grid: Grid,
        *,
        spacecraft: str,
        psf_fwhm: float,
        snr_scale: float,
        clouds: Clouds | None,
        seed: int,
        unmasked: Sequence[Cover] = (),
        above_air: bool = False,
    ) -> None:
        self.truth, self.grid, self.spacecraft = truth, grid, spacecraft
        self.psf_fwhm, self.snr_scale, self.clouds, self.seed = psf_fwhm, snr_scale, clouds, seed
        self._unmasked, self._above_air = tuple(unmasked), above_air
        self._finer = max(1, round(grid.pixel_m / truth.grid.pixel_m))
        self._scene = truth.grid.coarsened(self._finer)
        self._inside = self._scene.block_in(grid)

    def band(self, name: str) -> Callable[[Slice2D], FloatArray]:
        """Return a function that delivers blocks (row, col) of a band on the band's own pixels."""
        ratio = RESOLUTION_M[name] // 10
        response = table_responses(self.spacecraft, [name])[0]
        weights = self.truth.endmembers.in_responses([response])

        def read(block: Slice2D) -> FloatArray:
            fine = block.scaled(ratio)
            view = self._mirrored(lambda part: self._see(weights, response.centre_nm, part), fine)
            coarse = _block_mean(view, ratio)
            return self._noisy(coarse, name, block.row0)

        return read

    def classes(self, block: Slice2D) -> NDArray[np.uint8]:
        """Scene classes of a block of 20 m pixels."""
        red, infrared = table_responses(self.spacecraft, ["B04", "B08"])
        weights = self.truth.endmembers.in_responses([red, infrared])

        def classify(part: Slice2D) -> FloatArray:
            fine = part.scaled(self._finer)
            low, high = (_block_mean(band, self._finer) for band in self.truth.mix(weights, fine))
            index = (high - low) / np.maximum(high + low, 1e-3)
            classes = np.where(index > 0.4, SCL_VEGETATION, SCL_BARE)
            classes = np.where(self.truth.labels(fine)[:: self._finer, :: self._finer] == WATER, SCL_WATER, classes)
            if self.clouds is not None:
                opacity, shadow = self.clouds.block(*part.slices)
                classes = np.where(shadow > 0.25, SCL_SHADOW, classes)
                for limit, kind in ((0.04, SCL_CIRRUS), (0.25, SCL_MEDIUM), (0.6, SCL_HIGH)):
                    classes = np.where(opacity > limit, kind, classes)
            return np.asarray(classes, dtype=np.float32)

        fine = self._mirrored(classify, block.scaled(2)).astype(np.uint8)
        # Of four pixels the one that hides most decides.
        rank = _RANK[fine.reshape(block.shape[0], 2, block.shape[1], 2)].max(axis=(1, 3))
        return np.asarray(_BY_RANK[rank], dtype=np.uint8)

    def _see(self, weights: NDArray[np.float64], centre_nm: float, part: Slice2D) -> FloatArray:
        """Noise-free view (row, col) of a block of the scene."""
        wide = Slice2D(part.row0 - _MARGIN, part.row1 + _MARGIN, part.col0 - _MARGIN, part.col1 + _MARGIN)
        wide = wide.clipped(*self._scene.shape)
        finer = self._finer
        view = gaussian_blur(self.truth.mix(weights, wide.scaled(finer)), self.psf_fwhm * finer)
        view = _block_mean(view[0], finer)[None]
        top, left = part.row0 - wide.row0, part.col0 - wide.col0
        view = view[:, top : top + part.shape[0], left : left + part.shape[1]]
        if self.clouds is not None:
            view = self.clouds.cover(view, [centre_nm], *part.slices)
        for cover in self._unmasked:
            view = cover.cover(view, [centre_nm], *part.slices)
        if self._above_air:
            view = top_of_atmosphere(view, [centre_nm])
        return np.asarray(view[0], dtype=np.float32)

    def _mirrored(self, read: Callable[[Slice2D], FloatArray], block: Slice2D) -> FloatArray:
        """Read a block of the product's 10 m grid, continuing the scene by mirroring where it ends."""
        height, width = self._scene.shape
        rows = _reflect(np.arange(block.row0, block.row1) - self._inside.row0, height)
        cols = _reflect(np.arange(block.col0, block.col1) - self._inside.col0, width)
        part = Slice2D(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
        view = read(part)
        if view.shape == block.shape and rows[0] == part.row0 and cols[0] == part.col0:
            return view
        return np.ascontiguousarray(view[np.ix_(rows - part.row0, cols - part.col0)])

    def _noisy(self, view: FloatArray, name: str, row0: int) -> FloatArray:
        if not np.isfinite(self.snr_scale):
            return view
        rng = np.random.default_rng([self.seed, 0x52, BAND_ORDER.index(name), row0])
        sigma = np.sqrt(np.float32(7e-4**2) + np.square(np.float32(0.004) * view)) / np.float32(self.snr_scale)
        return np.asarray(view + sigma * rng.standard_normal(view.shape, dtype=np.float32), dtype=np.float32)


def _reflect(index: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """Fold positions outside ``0 .. size - 1`` back as a mirror would (edges repeated once)."""
    folded = np.mod(index, 2 * size)
    return np.asarray(np.where(folded >= size, 2 * size - 1 - folded, folded), dtype=np.int64)


def _block_mean(view: FloatArray, ratio: int) -> FloatArray:
    if ratio == 1:
        return view
    rows, cols = view.shape[0] // ratio, view.shape[1] // ratio
    return np.asarray(view.reshape(rows, ratio, cols, ratio).mean(axis=(1, 3)), dtype=np.float32)
