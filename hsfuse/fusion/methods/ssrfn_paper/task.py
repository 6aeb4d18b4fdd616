"""How SSRFN is trained as published: it turns reduced pairs into cubes."""

from __future__ import annotations

from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.training.fusion_task import SupervisedTask, TaskSetup


class SsrfnTask(SupervisedTask):
    """SSRFN on reduced pairs.

    Parameters
    ----------
    network
        Moved to the device.
    setup
        Data and settings.
    """

    network: Ssrfn

    def __init__(self, network: Ssrfn, setup: TaskSetup) -> None:
        super().__init__(network, setup, statistics=True)

    def save_memory(self, on: bool) -> bool:
        """Compute Mamba blocks twice instead of storing what they need for the gradient."""
        self.network.set_recompute(on)
        return not on or any(isinstance(module, SequenceMixer) for module in self.network.modules())
