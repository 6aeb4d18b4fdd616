"""The HSI's response to images of the MSI's grid, and interpolation back, for arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset, Psf, decimate_separable, displaced_kernels, upsample
from hsfuse.fusion.map.blur import decimation_matrix

FloatArray = NDArray[np.float64]
FloatImage = NDArray[np.float32]

_LEAST_WEIGHT = 1e-4
"""Weights of the blur along an axis that are left out of matrices."""
INTERPOLATION_PX = 3
"""HSI pixels around one that interpolation to the fine grid looks at."""


@dataclass(frozen=True)
class Response:
    """Blur, decimation and shift of the HSI relative to the MSI's grid.

    Attributes
    ----------
    ratio
        Fine pixels per coarse pixel.
    psf, offset_px
        Blur and displacement (row, col), coarse pixels.
    """

    ratio: int
    psf: Psf
    offset_px: Offset = NO_OFFSET

    def down(self, x: NDArray[np.floating]) -> FloatArray:
        """Blur and decimate (band, row, col)."""
        import torch

        rows, cols = displaced_kernels(self.psf, self.ratio, self.offset_px)
        fine = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None]
        return np.asarray(decimate_separable(fine, self.ratio, rows, cols)[0].numpy(), np.float64)

    def up(self, y: NDArray[np.floating]) -> FloatArray:
        """Interpolate (band, row, col) to the fine grid."""
        return np.asarray(self.up_single(y), np.float64)

    def up_single(self, y: NDArray[np.floating]) -> NDArray[np.float32]:
        """As :meth:`up`, in single precision."""
        import torch

        coarse = torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32))[None]
        fine: NDArray[np.float32] = upsample(coarse, self.ratio, self.offset_px)[0].numpy()
        return fine

    def separable(self, shape: tuple[int, int]) -> SeparableResponse:
        """Blur and decimation of an image of so many coarse pixels, with its transpose, in single precision."""
        rows, cols = (
            sp.csr_matrix(
                _without_tails(decimation_matrix(size * self.ratio, self.ratio, self.psf, offset)), dtype=np.float32
            )
            for size, offset in zip(shape, self.offset_px, strict=True)
        )
        return SeparableResponse(rows, cols, rows.T.tocsr(), cols.T.tocsr())

    def sparse(self, shape: tuple[int, int], looked: NDArray[np.int64], known: NDArray[np.int64]) -> sp.csr_matrix:
        """Blur and decimation as a sparse matrix.

        Parameters
        ----------
        shape
            Coarse pixels.
        looked, known
            Places in the raveled coarse image (the matrix's rows) and in the raveled fine one (its columns), ascending.
        """
        down, across = (
            _taps(decimation_matrix(size * self.ratio, self.ratio, self.psf, offset))
            for size, offset in zip(shape, self.offset_px, strict=True)
        )
        rows, cols = np.divmod(looked, shape[1])
        wide = shape[1] * self.ratio
        place = down[0][rows][:, :, None] * wide + across[0][cols][:, None, :]
        weight = down[1][rows][:, :, None] * across[1][cols][:, None, :]
        column = np.full(shape[0] * self.ratio * wide, -1, np.int32)
        column[known] = np.arange(known.size, dtype=np.int32)
        found = column[place]
        used = (found >= 0) & (weight > 0.0)
        ends = np.concatenate([[0], np.cumsum(used.sum(axis=(1, 2)))]).astype(np.int32)
        return sp.csr_matrix((weight[used], found[used], ends), shape=(looked.size, known.size))


@dataclass(frozen=True)
class SeparableResponse:
    """The response as one banded matrix for each axis.

    Its images are laid out as it reads them: fine ones (row, band, col), coarse ones (col, row, band).

    Attributes
    ----------
    rows, cols
        Shapes (coarse row, row) and (coarse col, col).
    rows_back, cols_back
        Their transposes.
    """

    rows: sp.csr_matrix
    cols: sp.csr_matrix
    rows_back: sp.csr_matrix
    cols_back: sp.csr_matrix

    def down(self, x: FloatImage) -> FloatImage:
        """Blur and decimate."""
        bands = x.shape[1]
        across = (self.rows @ x.reshape(len(x), -1)).reshape(-1, x.shape[2])
        return np.asarray(self.cols @ np.ascontiguousarray(across.T)).reshape(self.cols.shape[0], -1, bands)

    def back(self, y: FloatImage) -> FloatImage:
        """Apply the transpose of :meth:`down`."""
        bands = y.shape[2]
        across = np.ascontiguousarray((self.cols_back @ y.reshape(len(y), -1)).T)
        return np.asarray(self.rows_back @ across.reshape(y.shape[1], -1)).reshape(self.rows.shape[1], bands, -1)

    def squared(self) -> SeparableResponse:
        """Return the response with the squares of all weights."""
        return SeparableResponse(*(
            matrix.power(2) for matrix in (self.rows, self.cols, self.rows_back, self.cols_back)
        ))  # fmt: skip


def _without_tails(matrix: FloatArray) -> FloatArray:
    return np.where(matrix > _LEAST_WEIGHT, matrix, 0.0)


def _taps(matrix: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Columns that each row of a banded matrix looks at, and their weights, shape (row, tap); small ones are 0."""
    kept = _without_tails(matrix)
    used = kept > 0.0
    taps = int(used.sum(axis=1).max())
    first = np.minimum(used.argmax(axis=1), matrix.shape[1] - taps)
    columns = first[:, None] + np.arange(taps)
    return columns, np.take_along_axis(kept, columns, axis=1)
