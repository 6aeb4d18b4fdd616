"""Sparse Tucker cores of patches: what both images say of one, split by ADMM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

_AT_A_TIME = 1024


@dataclass(frozen=True)
class Modes:
    """A product of three matrices with a core, diagonalised so that a core can be solved for.

    Attributes
    ----------
    matrices
        Shapes (cluster, row, atom), (cluster, col, atom), (cluster, band, spectrum).
    vectors, values
        Eigenvectors and eigenvalues of the matrices' Gram matrices.
    """

    matrices: tuple[Tensor, Tensor, Tensor]
    vectors: tuple[Tensor, Tensor, Tensor]
    values: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, rows: Tensor, cols: Tensor, bands: Tensor) -> Modes:
        """Diagonalise the Gram matrices."""
        matrices = (rows, cols, bands)
        found = [torch.linalg.eigh((m.transpose(1, 2) @ m).double()) for m in matrices]
        values = tuple(f.eigenvalues.clamp(min=0.0).float() for f in found)
        vectors = tuple(f.eigenvectors.float() for f in found)
        return cls(matrices, vectors, values)

    def of_patches(self, cluster: Tensor) -> Modes:
        """Take the matrices of the cluster of every patch."""
        picked = [tuple(t[cluster] for t in part) for part in (self.matrices, self.vectors, self.values)]
        return Modes(*picked)  # type: ignore[arg-type]

    def solve(self, correlated: Tensor, target: Tensor, weight: float) -> Tensor:
        """Return the cores that fit the data, and are near ``target`` with that weight.

        Parameters
        ----------
        correlated
            Products of the data with all three matrices, in the eigenvectors' basis.
        target
            Cores.
        """
        first, second, third = self.values
        scale = first[:, :, None, None] * second[:, None, :, None] * third[:, None, None, :] + weight
        turned = (correlated + weight * product(target, *_transposed(self.vectors))) / scale
        return product(turned, *self.vectors)

    def correlated(self, data: Tensor) -> Tensor:
        """Products of patches (patch, row, col, band) with all matrices, in the eigenvectors' basis."""
        joint = [m @ v for m, v in zip(self.matrices, self.vectors, strict=True)]
        return product(data, *_transposed(tuple(joint)))


def product(core: Tensor, rows: Tensor, cols: Tensor, bands: Tensor) -> Tensor:
    """Tucker product of every core (n, a, b, c) with its own three matrices (n, out, in)."""
    n, a, b, _ = core.shape
    x = (core.reshape(n, a * b, -1) @ bands.transpose(1, 2)).unflatten(1, (a, b))
    x = (rows @ x.flatten(2)).unflatten(2, (b, -1))
    return cols[:, None] @ x


def _transposed(matrices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(m.transpose(1, 2) for m in matrices)


def code(
    fine: Tensor, coarse: Tensor, cluster: Tensor, seen: tuple[Modes, Modes], out: tuple[Tensor, Tensor, Tensor],
    *, sparsity: float, weight: float, iterations: int,
) -> Tensor:  # fmt: skip
    """Return fused patches, shape (patch, side, side, band).

    Parameters
    ----------
    fine, coarse
        Patches of both images, (patch, side, side, msi band) and (patch, side / ratio, side / ratio, component).
    cluster
        Of every patch.
    seen
        Dictionaries as the MSI and as the HSI see them.
    out
        Dictionaries of the fused patches.
    sparsity, weight, iterations
        Weight of the cores' absolute values, of the constraint that joins the splits, and steps.
    """
    parts = [
        _code_some(fine[rows], coarse[rows], cluster[rows], seen, out, sparsity, weight, iterations)
        for first in range(0, len(fine), _AT_A_TIME) for rows in [slice(first, first + _AT_A_TIME)]
    ]  # fmt: skip
    return torch.cat(parts)


def _code_some(
    fine: Tensor, coarse: Tensor, cluster: Tensor, seen: tuple[Modes, Modes], out: tuple[Tensor, Tensor, Tensor],
    sparsity: float, weight: float, iterations: int,
) -> Tensor:  # fmt: skip
    modes = [part.of_patches(cluster) for part in seen]
    told = [m.correlated(data) for m, data in zip(modes, (fine, coarse), strict=True)]
    core = torch.zeros_like(told[0])
    slack = [torch.zeros_like(core), torch.zeros_like(core)]
    for _ in range(iterations):
        fits = [m.solve(t, core - s, weight) for m, t, s in zip(modes, told, slack, strict=True)]
        core = F.softshrink(0.5 * (fits[0] + slack[0] + fits[1] + slack[1]), 0.5 * sparsity / weight)
        slack = [s + f - core for s, f in zip(slack, fits, strict=True)]
    return product(core, *(m[cluster] for m in out))
