"""What a network is given about a whole scene, so that all tiles of it are treated alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hsfuse.fusion.classical.statistics import PairStatistics, noise_std


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
        (mean, std), (msi_mean, msi_std) = _mean_and_std(hsi.float()), _mean_and_std(msi.float())
        return cls(mean, std, msi_mean, msi_std, torch.zeros_like(mean))

    @classmethod
    def of_pair(cls, statistics: PairStatistics, device: str = "cpu") -> SceneStatistics:
        """Statistics of a whole scene at low resolution; until it is known better, the error is the HSI's noise."""
        bands = statistics.bands
        noise = noise_std(statistics.covariance[:bands, :bands], statistics.count)
        spread = np.sqrt(np.maximum(np.diag(statistics.covariance), 0.0))
        values = (statistics.hsi_mean, spread[:bands], statistics.msi_mean, spread[bands:], noise)
        return cls(*(torch.as_tensor(v, dtype=torch.float32, device=device)[None] for v in values))


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the pixels of every band, shape (n, band); on a CPU in half of the time of :func:`torch.std_mean`."""
    mean = x.mean(dim=(2, 3))
    count = x.shape[2] * x.shape[3]
    return mean, ((x - mean[..., None, None]).square().sum(dim=(2, 3)) / max(count - 1, 1)).sqrt()
