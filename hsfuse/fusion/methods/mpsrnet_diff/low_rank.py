"""The low-rank model of stage 1: a few bands that stand for all, and what the guide shows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hsfuse.fusion.classical.statistics import PairStatistics

FloatMatrix = NDArray[np.float64]

_ALIKE = 0.95
"""Bands that correlate more than this say the same."""
_RIDGE = 1e-4


@dataclass(frozen=True)
class LowRankModel:
    """Scene-wide: chosen bands, how all bands and the guide follow from them.

    Attributes
    ----------
    bands
        Indices of the chosen bands, shape (rank,).
    mean, spread
        Of the chosen bands, reflectance, shape (rank,).
    expand
        All bands from the chosen ones: spectrum minus its mean = ``expand @ (chosen minus their mean)``; shape
        (band, rank).
    guide, guide_mean
        The guide from the chosen bands, shape (guide band, rank), and its mean.
    misfit
        Covariance of what they do not explain of the guide's detail, shape (guide band, guide band).
    detail
        Covariance of the chosen bands' detail, shape (rank, rank): how they vary together where the guide shows
        something that the HSI does not.
    """

    bands: NDArray[np.int64]
    mean: torch.Tensor
    spread: torch.Tensor
    expand: torch.Tensor
    guide: torch.Tensor
    guide_mean: torch.Tensor
    misfit: torch.Tensor
    detail: torch.Tensor

    @classmethod
    def of(cls, statistics: PairStatistics, rank: int, device: str = "cpu") -> LowRankModel:
        """Derive it from the joint statistics of the pair at low resolution."""
        count = statistics.bands
        covariance = statistics.covariance
        chosen = select_bands(covariance[:count, :count], rank)
        inner = covariance[np.ix_(chosen, chosen)]
        loaded = inner + _RIDGE * np.trace(inner) / rank * np.eye(rank)
        expand = np.linalg.solve(loaded, covariance[chosen, :count]).T
        guide = np.linalg.solve(loaded, covariance[chosen, count:]).T
        fine = statistics.detail
        detail = fine[np.ix_(chosen, chosen)]
        cross = guide @ fine[chosen, count:]
        left = fine[count:, count:] - cross - cross.T + guide @ detail @ guide.T
        misfit = np.diag(np.maximum(np.diag(left), 1e-9))

        def tensor(value: FloatMatrix) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(value), dtype=torch.float32, device=device)

        spread = np.sqrt(np.maximum(np.diag(inner), 1e-10))
        mean = statistics.hsi_mean[chosen]
        return cls(chosen, tensor(mean), tensor(spread), tensor(expand), tensor(guide), tensor(statistics.msi_mean),
                   tensor(misfit), tensor(detail))  # fmt: skip


def select_bands(covariance: FloatMatrix, rank: int) -> NDArray[np.int64]:
    """Choose bands by principal components: for each, the band that loads it most and is unlike those chosen before."""
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    correlation = covariance / np.outer(deviation, deviation)
    _, vectors = np.linalg.eigh(correlation)
    chosen: list[int] = []
    for component in vectors.T[::-1][:rank]:
        order = np.argsort(-np.abs(component))
        alike = np.abs(correlation[:, chosen]).max(axis=1) if chosen else np.zeros(len(correlation))
        free = [int(band) for band in order if alike[band] < _ALIKE and int(band) not in chosen]
        left = np.where(np.isin(np.arange(len(alike)), chosen), np.inf, alike)
        chosen.append(free[0] if free else int(left.argmin()))
    return np.array(sorted(chosen), dtype=np.int64)
