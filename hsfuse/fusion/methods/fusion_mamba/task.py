"""FusionMamba is trained with absolute errors."""

from __future__ import annotations

from hsfuse.fusion.nets.pair_network import PairNetwork
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.pair_task import PairTask, absolute_loss


def make_task(network: PairNetwork, setup: TaskSetup) -> PairTask:
    """Return the training task."""
    return PairTask(network, setup, absolute_loss)
