"""What a network is given about a whole scene, so that all tiles of it are treated alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SceneStatistics(NamedTuple):
    """Statistics of a scene; shapes (n or 1, band).

    Attributes
    ----------
    mean, std
        Of every HSI band, reflectance.
    msi_mean, msi_std
        Of every MSI band.
    error
        Expected root mean square error of a base estimate in every HSI band, reflectance; zero when unknown.
    """

    mean: Tensor
    std: Tensor
    msi_mean: Tensor
    msi_std: Tensor
    error: Tensor

    @classmethod
    def of(cls, hsi: Tensor, msi: Tensor) -> SceneStatistics:
        """Statistics of a batch of whole scenes (each sample by itself), error unknown."""
        std, mean = torch.std_mean(hsi.float(), dim=(2, 3))
        msi_std, msi_mean = torch.std_mean(msi.float(), dim=(2, 3))
        return cls(mean, std, msi_mean, msi_std, torch.zeros_like(mean))
