"""Training of networks that turn HSI and MSI into a cube in one call, with losses of their own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hsfuse.fusion.nets.pair_network import PairNetwork, output_unit
from hsfuse.fusion.registry import fallback_method
from hsfuse.training.fusion_task import ESTIMATE, FusionTask, TaskSetup
from hsfuse.training.pairs import Batch

PairLoss = Callable[[Tensor, Batch, Tensor], Tensor]
"""Of fused patches (n, band, row, col), their batch, and the unit in which errors count, (n, band); returns (n,)."""


class PairTask(FusionTask):
    """A :class:`hsfuse.fusion.nets.pair_network.PairNetwork` on reduced pairs.

    Parameters
    ----------
    network
        Gets a base estimate if it corrects one.
    setup
        Data and settings.
    loss
        The network's own; None: the one that the user chose.
    """

    network: PairNetwork

    def __init__(self, network: PairNetwork, setup: TaskSetup, loss: PairLoss | None = None) -> None:
        self.base = (setup.base or fallback_method()) if network.base == "estimate" else ""
        super().__init__(network, setup)
        self._loss = loss

    def call(self, network: PairNetwork, batch: Batch) -> Tensor:
        """Fuse patches with a network, shape (n, band, row, col)."""
        fused: Tensor = network(batch.hsi, batch.msi, self.statistics(batch), batch.images.get(ESTIMATE))
        return fused

    def fuse(self, batch: Batch) -> Tensor:
        """Fuse patches."""
        return self.call(self.network, batch)

    def unit(self, batch: Batch) -> Tensor:
        """Unit in which errors count, (n, band): a band's deviation, or the error of the estimate to be corrected."""
        return output_unit(batch.values["std"], batch.values["error"], self.network.base)

    def fusion_loss(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the network's own loss, or the chosen one."""
        if self._loss is None:
            return super().fusion_loss(fused, batch)
        return self._loss(fused.float(), batch, self.unit(batch))


def absolute_loss(fused: Tensor, batch: Batch, unit: Tensor) -> Tensor:
    """Return the mean absolute error of every patch, shape (n,)."""
    error = (fused - batch.target) / unit[:, :, None, None] * batch.valid[:, None]
    return error.abs().mean(dim=(1, 2, 3))
