"""Integration of hyperspectral bands into multispectral ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch


def apply_srf(hsi: torch.Tensor, weights: ArrayLike) -> torch.Tensor:
    """Integrate HSI bands into MSI bands.

    Parameters
    ----------
    hsi
        Shape (n, band, row, col).
    weights
        Shape (msi band, band); see :func:`hsfuse.spectral.srf_weights`.

    Returns
    -------
    torch.Tensor
        Shape (n, msi band, row, col).
    """
    import torch

    matrix = torch.as_tensor(np.asarray(weights), dtype=hsi.dtype, device=hsi.device)
    return torch.matmul(matrix, hsi.flatten(2)).reshape(hsi.shape[0], -1, *hsi.shape[2:])
