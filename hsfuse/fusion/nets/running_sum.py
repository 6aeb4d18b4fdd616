"""Running sums that also serve where PyTorch may use deterministic algorithms only."""

from __future__ import annotations

import torch
from torch import Tensor


def running_sum(x: Tensor, dim: int) -> Tensor:
    """Cumulative sum along an axis; ``torch.cumsum`` has no deterministic form on CUDA, so there by doubling."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return by_doubling(x, dim)
    return torch.cumsum(x, dim)


def by_doubling(x: Tensor, dim: int) -> Tensor:
    """Cumulative sum in log2(length) passes, each of which adds what lies 1, 2, 4, ... places before.

    Reference: W. D. Hillis, G. L. Steele, Data parallel algorithms, Communications of the ACM 29, 1986.
    """
    length, shift = x.shape[dim], 1
    while shift < length:
        rest = length - shift
        x = torch.cat([x.narrow(dim, 0, shift), x.narrow(dim, shift, rest) + x.narrow(dim, 0, rest)], dim)
        shift *= 2
    return x
