"""SSR-NET is trained with squared errors of the cube and of its differences along rows, columns and bands."""

from __future__ import annotations

from torch import Tensor, nn

from hsfuse.fusion.nets.pair_network import MIN_STD
from hsfuse.training.fusion_task import SupervisedTask, TaskSetup
from hsfuse.training.losses import edge_loss
from hsfuse.training.pairs import Batch


def loss(fused: Tensor, batch: Batch) -> Tensor:
    """Return the loss of every patch, in units of the bands' deviations."""
    std = batch.values["std"].clamp(min=MIN_STD)[:, :, None, None]
    weight = batch.valid[:, None]
    error = (fused - batch.target) / std * weight
    return error.square().mean(dim=(1, 2, 3)) + edge_loss(error)


def make_task(network: nn.Module, setup: TaskSetup) -> SupervisedTask:
    """Return the training task."""
    return SupervisedTask(network, setup, statistics=True, loss=loss)
