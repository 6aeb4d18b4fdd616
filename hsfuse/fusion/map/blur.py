"""Blur and decimation of a tile as two small matrices, its transpose, and the Gram matrix that a posterior needs.

The HSI's response is separable: ``B x = R x C'`` with ``R`` down the rows and ``C`` along the columns. Edges are
replicated as in :mod:`hsfuse.degrade`. With ``B B' = V diag(g) V'`` (the Kronecker product of two small
eigendecompositions), ``(B'B + a)^-1 = (1 - B' (B B' + a)^-1 B) / a``: everything that has to be inverted lives on the
coarse grid. The matrices have narrow bands: compiled kernels go along them, or they are applied block by block, without
most of the zeros.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset, Psf, displaced_kernels, psf_kernel
from hsfuse.degrade.banded import FloatArray, compiled_planes, from_planes
from hsfuse.native import image

if TYPE_CHECKING:
    import torch

_IMAGES = 4
"""Axes of what compiled kernels take: sample, component, row, column."""
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
    ratio, kernels, spreads
        Fine pixels per coarse pixel, and what compiled kernels make the same of: weights down the rows and along the
        columns, and those of the transpose (:func:`hsfuse.native.image.spread`).
    """

    down: BandedMatrix
    across: BandedMatrix
    down_transposed: BandedMatrix
    across_transposed: BandedMatrix
    down_basis: torch.Tensor
    across_basis: torch.Tensor
    power: torch.Tensor
    ratio: int
    kernels: tuple[FloatArray, FloatArray]
    spreads: tuple[tuple[NDArray[np.int64], FloatArray], tuple[NDArray[np.int64], FloatArray]]

    @classmethod
    def of(
        cls, shape: tuple[int, int], ratio: int, psf: Psf, offset_px: Offset = NO_OFFSET, device: str = "cpu"
    ) -> TileBlur:
        """Prepare a tile of ``shape`` fine pixels; tiles of equal shape share the work."""
        return _tile_blur(shape, ratio, psf, (float(offset_px[0]), float(offset_px[1])), device)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Blur and decimate (..., row, col)."""
        planes = compiled_planes(x) if x.dim() == _IMAGES else None
        coarse = None if planes is None else image.decimate(planes, self.ratio, *self.kernels)
        if coarse is not None:
            return from_planes(coarse, x)
        return self.across.along_columns(self.down.along_rows(x))

    def transpose(self, y: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """Apply the transpose of :meth:`apply` to (..., coarse row, coarse col); only some fine rows if given."""
        planes = compiled_planes(y) if y.dim() == _IMAGES else None
        wanted = rows or slice(0, self.down.shape[1])
        fine = None if planes is None else image.spread(planes, self.ratio, *self.spreads, wanted)
        if fine is not None:
            return from_planes(fine, y)
        return self.across_transposed.along_columns(self.down_transposed.along_rows(y, rows))

    def to_basis(self, y: torch.Tensor) -> torch.Tensor:
        """Turn (..., coarse row, coarse col) so that ``B B'`` becomes :attr:`power`."""
        return self.down_basis.T @ y @ self.across_basis

    def from_basis(self, y: torch.Tensor) -> torch.Tensor:
        """Turn back what :meth:`to_basis` turned."""
        return self.down_basis @ y @ self.across_basis.T


@dataclass(frozen=True)
class _Axis:
    """What a response does along one axis, with the eigendecomposition of its Gram matrix in double precision."""

    matrix: BandedMatrix
    transposed: BandedMatrix
    basis: torch.Tensor
    values: NDArray[np.float64]
    spread: tuple[NDArray[np.int64], FloatArray]


@functools.lru_cache(maxsize=32)
def _tile_blur(shape: tuple[int, int], ratio: int, psf: Psf, offset_px: Offset, device: str) -> TileBlur:
    import torch

    rows, cols = (_axis(n, ratio, psf, offset, device) for n, offset in zip(shape, offset_px, strict=True))
    power = torch.as_tensor(np.outer(rows.values, cols.values), dtype=torch.float32, device=device)
    return TileBlur(
        rows.matrix, cols.matrix, rows.transposed, cols.transposed, rows.basis, cols.basis, power, ratio,
        _kernels(psf, ratio, offset_px), (rows.spread, cols.spread),
    )  # fmt: skip


# Tiles that are cut to fit have many shapes, but few heights and widths.
@functools.lru_cache(maxsize=128)
def _axis(size: int, ratio: int, psf: Psf, offset_px: float, device: str) -> _Axis:
    import torch

    matrix = decimation_matrix(size, ratio, psf, offset_px)
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    return _Axis(
        BandedMatrix.of(matrix, _BLOCK_PX, device), BandedMatrix.of(matrix.T, _BLOCK_PX * ratio, device),
        torch.as_tensor(np.ascontiguousarray(vectors), dtype=torch.float32, device=device),
        np.maximum(values, 0.0), _spread(matrix, ratio),
    )  # fmt: skip


def _kernels(psf: Psf, ratio: int, offset_px: Offset) -> tuple[FloatArray, FloatArray]:
    down, across = (np.asarray(kernel, np.float32) for kernel in displaced_kernels(psf, ratio, offset_px))
    return down, across


def _spread(matrix: NDArray[np.float64], ratio: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Return what the transpose of (coarse, fine) looks at: of every phase the first coarse sample, and weights."""
    coarse, fine = np.nonzero(matrix)
    phase, beyond = fine % ratio, coarse - fine // ratio
    first = np.array([beyond[phase == p].min() for p in range(ratio)], np.int64)
    tap = beyond - first[phase]
    weights = np.zeros((ratio, int(tap.max()) + 1, len(matrix)), np.float32)
    weights[phase, tap, fine // ratio] = matrix[coarse, fine]
    return first, weights
