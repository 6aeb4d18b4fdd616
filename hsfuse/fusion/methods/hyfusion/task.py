"""HyFusion is trained with absolute error, spectral angle, and absolute error of wavelet details."""

from __future__ import annotations

import torch
from torch import Tensor

from hsfuse.fusion.nets.pair_network import PairNetwork
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.losses import spectral_angle
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch

SHARE = 0.1
"""Weight of the angle and of the wavelet details; the authors give none."""


def haar_details(x: Tensor) -> Tensor:
    """Three detail bands of a one-level stationary Haar transform, shape (n, 3 band, row - 1, col - 1)."""
    a, b, c, d = x[..., :-1, :-1], x[..., :-1, 1:], x[..., 1:, :-1], x[..., 1:, 1:]
    return 0.5 * torch.cat([a + b - c - d, a - b + c - d, a - b - c + d], dim=1)


def loss(fused: Tensor, batch: Batch, unit: Tensor) -> Tensor:
    """Return the loss of every patch."""
    error = (fused - batch.target) / unit[:, :, None, None] * batch.valid[:, None]
    angle = (spectral_angle(fused, batch.target) * batch.valid).mean(dim=(1, 2))
    return error.abs().mean(dim=(1, 2, 3)) + SHARE * (angle + haar_details(error).abs().mean(dim=(1, 2, 3)))


def make_task(network: PairNetwork, setup: TaskSetup) -> PairTask:
    """Return the training task."""
    return PairTask(network, setup, loss)
