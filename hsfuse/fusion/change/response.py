"""The HSI's response to images of the MSI's grid, and interpolation back, for arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset, Psf, decimate_separable, displaced_kernels, upsample
from hsfuse.fusion.map.blur import decimation_matrix

FloatArray = NDArray[np.float64]


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

    def sparse(self, shape: tuple[int, int]) -> sp.csr_matrix:
        """Blur and decimation of a raveled image of ``shape`` coarse pixels as a sparse matrix."""
        parts = [
            sp.csr_matrix(np.where(matrix > 1e-4, matrix, 0.0))
            for size, offset in zip(shape, self.offset_px, strict=True)
            for matrix in (decimation_matrix(size * self.ratio, self.ratio, self.psf, offset),)
        ]
        return sp.csr_matrix(sp.kron(parts[0], parts[1], format="csr"))
