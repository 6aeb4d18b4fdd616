"""Blur and decimation of a tile as two small matrices, its transpose, and the Gram matrix that a posterior needs.

The HSI's response is separable: ``B x = R x C'`` with ``R`` down the rows and ``C`` along the columns. Edges are
replicated as in :mod:`hsfuse.degrade`. With ``B B' = V diag(g) V'`` (the Kronecker product of two small
eigendecompositions), ``(B'B + a)^-1 = (1 - B' (B B' + a)^-1 B) / a``: everything that has to be inverted lives on the
coarse grid. The matrices have narrow bands: they are applied block by block, without the zeros.
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

_BLOCK_PX = 32
"""Coarse pixels of a block: large enough for a matrix product, small enough to leave most zeros out."""


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
class BandedMatrix:
    """A matrix whose rows look at neighbouring columns only, kept as blocks without most of its zeros.

    Attributes
    ----------
    shape
        Rows and columns.
    blocks
        Rows, the columns that they look at, and what they do with them.
    """

    shape: tuple[int, int]
    blocks: tuple[tuple[slice, slice, torch.Tensor], ...]

    @classmethod
    def of(cls, matrix: NDArray[np.float64], block: int, device: str = "cpu") -> BandedMatrix:
        """Cut a matrix into blocks of so many rows."""
        import torch

        blocks = []
        for start in range(0, len(matrix), block):
            rows = slice(start, min(start + block, len(matrix)))
            used = np.flatnonzero(np.any(matrix[rows] != 0.0, axis=0))
            cols = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
            part = np.ascontiguousarray(matrix[rows, cols])
            blocks.append((rows, cols, torch.as_tensor(part, dtype=torch.float32, device=device)))
        return cls((matrix.shape[0], matrix.shape[1]), tuple(blocks))

    def along_rows(self, x: torch.Tensor, wanted: slice | None = None) -> torch.Tensor:
        """Apply to the second to last axis; only some rows of the result where they are given."""
        wanted = wanted or slice(0, self.shape[0])
        out = x.new_empty((*x.shape[:-2], wanted.stop - wanted.start, x.shape[-1]))
        for rows, cols, part in self.blocks:
            first, last = max(rows.start, wanted.start), min(rows.stop, wanted.stop)
            if first < last:
                made = part[first - rows.start : last - rows.start] @ x[..., cols, :]
                out[..., first - wanted.start : last - wanted.start, :] = made
        return out

    def along_columns(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to the last axis."""
        out = x.new_empty((*x.shape[:-1], self.shape[0]))
        for rows, cols, part in self.blocks:
            out[..., rows] = x[..., cols] @ part.T
        return out


@dataclass(frozen=True)
class TileBlur:
    """The HSI's response to a tile of the fine grid.

    Attributes
    ----------
    down, across
        What it does along the rows (coarse row, row) and along the columns (coarse col, col).
    down_transposed, across_transposed
        Their transposes.
    down_basis, across_basis
        Eigenvectors of ``down @ down.T`` and ``across @ across.T``.
    power
        Eigenvalues of ``B B'``, shape (coarse row, coarse col).
    """

    down: BandedMatrix
    across: BandedMatrix
    down_transposed: BandedMatrix
    across_transposed: BandedMatrix
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
        return self.across.along_columns(self.down.along_rows(x))

    def transpose(self, y: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """Apply the transpose of :meth:`apply` to (..., coarse row, coarse col); only some fine rows if given."""
        return self.across_transposed.along_columns(self.down_transposed.along_rows(y, rows))

    def to_basis(self, y: torch.Tensor) -> torch.Tensor:
        """Turn (..., coarse row, coarse col) so that ``B B'`` becomes :attr:`power`."""
        return self.down_basis.T @ y @ self.across_basis

    def from_basis(self, y: torch.Tensor) -> torch.Tensor:
        """Turn back what :meth:`to_basis` turned."""
        return self.down_basis @ y @ self.across_basis.T


@functools.lru_cache(maxsize=32)
def _tile_blur(shape: tuple[int, int], ratio: int, psf: Psf, offset_px: Offset, device: str) -> TileBlur:
    import torch

    down, across = (decimation_matrix(n, ratio, psf, offset) for n, offset in zip(shape, offset_px, strict=True))
    (rows, down_basis), (cols, across_basis) = (np.linalg.eigh(matrix @ matrix.T) for matrix in (down, across))
    power = np.outer(np.maximum(rows, 0.0), np.maximum(cols, 0.0))
    tensors = (
        torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)
        for array in (down_basis, across_basis, power)
    )
    return TileBlur(
        BandedMatrix.of(down, _BLOCK_PX, device), BandedMatrix.of(across, _BLOCK_PX, device),
        BandedMatrix.of(down.T, _BLOCK_PX * ratio, device), BandedMatrix.of(across.T, _BLOCK_PX * ratio, device),
        *tensors,
    )  # fmt: skip
