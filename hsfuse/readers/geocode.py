"""Images that are stored in another order or system than that of a map grid, resampled onto one window by window.

What is resampled here is looked at: for co-registration, quicklooks, statistics. A run resamples the stored pixels
themselves, once (``HyperspectralProduct.stored_pixels``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.grid import Grid, PixelGeometry, Slice2D

TAPS = np.arange(-1, 3)
"""Neighbours of the cubic kernel along one axis, relative to the pixel before the position."""
GROUP_BYTES = 64 << 20
ENOUGH_WEIGHT = 0.75
"""Share of the kernel that must fall on samples with data; below it the nearest sample is taken as it is."""


class Geocoder(ABC):
    """Resamples a stored image onto a map grid (Keys' cubic convolution), alike for every choice of windows.

    Attributes
    ----------
    grid
        The map grid.
    shape
        (rows, cols) of the stored image.
    """

    grid: Grid
    shape: tuple[int, int]

    @abstractmethod
    def positions(self, block: Slice2D) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Stored (row, col) of the pixel centres of a block of the grid; NaN outside the stored image."""

    def source_block(self, block: Slice2D) -> Slice2D | None:
        """Return the part of the stored image that a block of the grid needs; None when it lies outside."""
        row, col = self.positions(block)
        inside = np.isfinite(row)
        if not inside.any():
            return None
        return Slice2D(
            int(np.floor(row[inside].min())) + int(TAPS[0]), int(np.floor(row[inside].max())) + int(TAPS[-1]) + 1,
            int(np.floor(col[inside].min())) + int(TAPS[0]), int(np.floor(col[inside].max())) + int(TAPS[-1]) + 1,
        ).clipped(*self.shape)  # fmt: skip

    def inside(self, block: Slice2D) -> NDArray[np.bool_]:
        """Grid pixels whose centre lies in the stored image, shape (row, col)."""
        return np.asarray(np.isfinite(self.positions(block)[0]))

    def resample(self, cube: NDArray[np.float32], source: Slice2D, block: Slice2D) -> NDArray[np.float32]:
        """Resample bands by cubic convolution.

        Parameters
        ----------
        cube
            Bands of the stored image within ``source``, shape (band, row, col), NaN where there is no data.
        source
            The block that :meth:`source_block` gave.
        block
            Block of the grid.

        Returns
        -------
        numpy.ndarray
            Float32, shape (band, row, col): NaN outside the swath and where the nearest stored sample has no data.
            Other missing neighbours are left out of the weighted mean.
        """
        inside, nearest, weights = self._weights(source, block)
        samples = np.ascontiguousarray(cube.reshape(cube.shape[0], -1).T)
        missing = np.isnan(samples)
        gaps = missing.any(axis=0)
        samples[missing] = 0.0
        values = weights @ samples
        if gaps.any():
            # Only bands with gaps need the sum of the weights that fell on data.
            mass = weights @ (~missing[:, gaps]).astype(np.float32)
            lost, at_nearest = missing[nearest][:, gaps], samples[nearest][:, gaps]
            with np.errstate(divide="ignore", invalid="ignore"):
                filled = np.where(mass >= ENOUGH_WEIGHT, values[:, gaps] / mass, at_nearest)
            values[:, gaps] = np.where(lost, np.float32(np.nan), filled)
        out = np.full((cube.shape[0], *block.shape), np.nan, dtype=np.float32)
        out[:, inside] = values.T
        return out

    def resample_codes(self, codes: NDArray[np.uint8], source: Slice2D, block: Slice2D) -> NDArray[np.uint8]:
        """Resample codes or masks by nearest neighbour, shape (band, row, col); 0 outside the swath."""
        inside, nearest = self._nearest(source, block)
        out = np.zeros((codes.shape[0], *block.shape), dtype=np.uint8)
        out[:, inside] = codes.reshape(codes.shape[0], -1)[:, nearest]
        return out

    def _nearest(self, source: Slice2D, block: Slice2D) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        rows_at, cols_at = self.positions(block)
        inside = np.isfinite(rows_at)
        row = np.floor(rows_at[inside] + 0.5).astype(np.int64) - source.row0
        col = np.floor(cols_at[inside] + 0.5).astype(np.int64) - source.col0
        rows, cols = source.shape
        return inside, np.clip(row, 0, rows - 1) * cols + np.clip(col, 0, cols - 1)

    def _weights(
        self, source: Slice2D, block: Slice2D
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], scipy.sparse.csr_array]:
        """Inside mask, index of the nearest sample and kernel weights (inside pixel x stored sample)."""
        inside, nearest = self._nearest(source, block)
        rows, cols = source.shape
        rows_at, cols_at = self.positions(block)
        row, row_weight = _kernel(rows_at[inside], self.shape[0])
        col, col_weight = _kernel(cols_at[inside], self.shape[1])
        index = (row - source.row0)[:, :, None] * cols + (col - source.col0)[:, None, :]
        weight = row_weight[:, :, None] * col_weight[:, None, :]
        pixels = inside.sum()
        starts = np.arange(pixels + 1) * TAPS.size**2
        return (
            inside,
            nearest,
            scipy.sparse.csr_array((weight.ravel(), index.ravel(), starts), shape=(pixels, rows * cols)),
        )

    def band_groups(self, source: Slice2D, count: int) -> Iterator[slice]:
        """Cut ``count`` bands into groups whose stored window stays below 64 MiB in memory."""
        rows, cols = source.shape
        step = max(1, GROUP_BYTES // (4 * rows * cols))
        for first in range(0, count, step):
            yield slice(first, min(first + step, count))


class PixelGeocoder(Geocoder):
    """Resamples an image whose pixels lie where a formula says.

    Parameters
    ----------
    grid
        The map grid.
    pixels
        Where the stored pixels lie, in the reference system of ``grid``.
    """

    def __init__(self, grid: Grid, pixels: PixelGeometry) -> None:
        self.grid, self.shape, self._pixels = grid, pixels.shape, pixels

    def positions(self, block: Slice2D) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Stored (row, col) of the pixel centres of a block of the grid; NaN outside the stored image."""
        part = self.grid.crop(block)
        row, col = np.meshgrid(np.arange(0.0, part.height), np.arange(0.0, part.width), indexing="ij")
        row, col = self._pixels.rowcol(*part.xy(row, col))
        rows, cols = self.shape
        with np.errstate(invalid="ignore"):
            inside = (row >= -0.5) & (row < rows - 0.5) & (col >= -0.5) & (col < cols - 0.5)
        at_row, at_col = (np.where(inside, at, np.nan).astype(np.float32) for at in (row, col))
        return at_row, at_col


def _kernel(position: NDArray[np.float32], size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Neighbours (clamped to the image) and Keys' cubic weights (a = -1/2) along one axis, shape (pixel, 4)."""
    before = np.floor(position)
    t = (position - before)[:, None]
    distance = np.abs(t - TAPS[None, :].astype(np.float32))
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    weight = np.where(distance <= 1, near, far).astype(np.float32)
    index = np.clip(before[:, None].astype(np.int64) + TAPS, 0, size - 1)
    return index, weight
