"""SSR-NET is trained with squared errors of the cube and of its differences along rows, columns and bands."""

from __future__ import annotations

from torch import Tensor

from hsfuse.fusion.nets.pair_network import PairNetwork
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.losses import edge_loss
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch


def loss(fused: Tensor, batch: Batch, unit: Tensor) -> Tensor:
    """Return the loss of every patch."""
    error = (fused - batch.target) / unit[:, :, None, None] * batch.valid[:, None]
    return error.square().mean(dim=(1, 2, 3)) + edge_loss(error)


def make_task(network: PairNetwork, setup: TaskSetup) -> PairTask:
    """Return the training task."""
    return PairTask(network, setup, loss)
