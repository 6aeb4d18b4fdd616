"""Blur and decimation of a tile as two small matrices, its transpose, and the Gram matrix that a posterior needs.

The HSI's response is separable: ``B x = R x C'`` with ``R`` down the rows and ``C`` along the columns. Edges are
replicated as in :mod:`hsfuse.degrade`. With ``B B' = V diag(g) V'`` (the Kronecker product of two small
eigendecompositions), ``(B'B + a)^-1 = (1 - B' (B B' + a)^-1 B) / a``: everything that has to be inverted lives on the
coarse grid.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset, Psf, psf_kernel

if TYPE_CHECKING:
    import torch


def decimation_matrix(size: int, ratio: int, psf: Psf, offset_px: float = 0.0) -> NDArray[np.float64]:
    """Blur and decimation along one axis, edges replicated.

    Parameters
    ----------
    size
        Fine pixels, a multiple of ``ratio``.
    ratio
        Fine pixels per coarse pixel.
    psf
        Blur, in coarse pixels.
    offset_px
        How far the coarse pixels really lie towards larger index, coarse pixels.

    Returns
    -------
    numpy.ndarray
        Shape (size / ratio, size); rows sum to 1.
    """
    kernel = psf_kernel(psf, ratio, offset_px=offset_px)
    side = (kernel.size - ratio) // 2
    matrix = np.zeros((size // ratio, size))
    for row in range(size // ratio):
        reached = np.clip(row * ratio - side + np.arange(kernel.size), 0, size - 1)
        np.add.at(matrix[row], reached, kernel)
    return matrix


@dataclass(frozen=True)
class TileBlur:
    """The HSI's response to a tile of the fine grid.

    Attributes
    ----------
    down, across
        Matrices of the rows (coarse row, row) and of the columns (coarse col, col).
    down_basis, across_basis
        Eigenvectors of ``down @ down.T`` and ``across @ across.T``.
    power
        Eigenvalues of ``B B'``, shape (coarse row, coarse col).
    """

    down: torch.Tensor
    across: torch.Tensor
    down_basis: torch.Tensor
    across_basis: torch.Tensor
    power: torch.Tensor

    @classmethod
    def of(
        cls, shape: tuple[int, int], ratio: int, psf: Psf, offset_px: Offset = NO_OFFSET, device: str = "cpu"
    ) -> TileBlur:
        """Prepare a tile of ``shape`` fine pixels; tiles of equal shape share the work."""
        return _tile_blur(shape, ratio, psf, (float(offset_px[0]), float(offset_px[1])), device)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Blur and decimate (..., row, col)."""
        return self.down @ x @ self.across.T

    def transpose(self, y: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of :meth:`apply` to (..., coarse row, coarse col)."""
        return self.down.T @ y @ self.across

    def solve_coarse(self, y: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
        """Return ``(B B' + a)^-1 y`` for (..., component, coarse row, coarse col) and a > 0 by component."""
        inner = self.down_basis.T @ y @ self.across_basis
        return self.down_basis @ (inner / (self.power + diagonal[:, None, None])) @ self.across_basis.T

    def solve(self, x: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
        """Return ``(B'B + a)^-1 x`` for (..., component, row, col) and a > 0 by component."""
        kept = self.transpose(self.solve_coarse(self.apply(x), diagonal))
        return (x - kept) / diagonal[:, None, None]


@functools.lru_cache(maxsize=32)
def _tile_blur(shape: tuple[int, int], ratio: int, psf: Psf, offset_px: Offset, device: str) -> TileBlur:
    import torch

    matrices = [decimation_matrix(size, ratio, psf, offset) for size, offset in zip(shape, offset_px, strict=True)]
    decompositions = [np.linalg.eigh(matrix @ matrix.T) for matrix in matrices]
    power = np.outer(*(np.maximum(values, 0.0) for values, _ in decompositions))

    def tensor(array: NDArray[np.float64]) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

    (_, down_basis), (_, across_basis) = decompositions
    return TileBlur(tensor(matrices[0]), tensor(matrices[1]), tensor(down_basis), tensor(across_basis), tensor(power))
