"""S3RNet is trained with a smooth absolute error, the spectral angle, and a penalty on its weights."""

from __future__ import annotations

from torch import Tensor

from hsfuse.fusion.methods.s3rnet.network import S3rnet
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.losses import smooth_l1_angle_loss
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch

PENALTY = 1e-3
"""Of the mean weight: few branches and channels should be open."""


def make_task(network: S3rnet, setup: TaskSetup) -> PairTask:
    """Return the training task."""

    def loss(fused: Tensor, batch: Batch, unit: Tensor) -> Tensor:
        total = smooth_l1_angle_loss(fused, batch.target, unit, batch.valid)
        return total if network.sparsity is None else total + PENALTY * network.sparsity.float()

    return PairTask(network, setup, loss)
