"""MPSRNet-Diff is trained with the chosen loss at the last step and the absolute error before; its prior is fixed."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.methods.mpsrnet_diff.low_rank import LowRankModel
from hsfuse.fusion.methods.mpsrnet_diff.network import Mpsrnet
from hsfuse.fusion.methods.mpsrnet_diff.sampling import PriorSampler
from hsfuse.fusion.nets.diffusion.files import load_prior
from hsfuse.fusion.nets.pair_network import PairNetwork
from hsfuse.training.fusion_task import ESTIMATE, TaskSetup, low_resolution_strip
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch, ReducedPair

EARLY_STEPS = 0.1
"""Weight of all steps but the last."""
PRIOR = "prior"
"""Name of the prior cube among the images of a pair."""


class MpsrnetTask(PairTask):
    """The network learns from pairs to which a sampled prior cube was added.

    Parameters
    ----------
    network
        The network.
    setup
        Data and settings.
    """

    network: Mpsrnet

    def __init__(self, network: Mpsrnet, setup: TaskSetup) -> None:
        s = network.settings
        self._prior = load_prior(n_bands=s.rank).network.to(setup.device) if s.use_prior else None
        super().__init__(network, setup)

    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """Add the prior cube of the window."""
        prepared = super().prepare(pair)
        if self._prior is None:
            return prepared
        s = self.network.settings
        model = LowRankModel.of(gather([low_resolution_strip(pair)]), s.rank, self.setup.device)
        sampler = PriorSampler(
            self._prior, model, pair.facts.psf, pair.ratio, s.window_px, s.training_steps, pair.facts.seed
        )
        with torch.no_grad():
            cube = sampler.cube(pair.hsi, pair.msi, (0, 0), *(slice(0, size) for size in pair.hsi.shape[1:]))
        return replace(prepared, images={**prepared.images, PRIOR: cube})

    def call(self, network: PairNetwork, batch: Batch) -> Tensor:
        """Fuse patches with a network, shape (n, band, row, col)."""
        fused: Tensor = network(
            batch.hsi, batch.msi, self.statistics(batch), batch.images.get(ESTIMATE), batch.images.get(PRIOR)
        )
        return fused

    def fusion_loss(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the chosen loss of the last step, and the absolute error of those before it."""
        loss = super().fusion_loss(fused, batch)
        unit = self.unit(batch)[:, :, None, None]
        for cube in self.network.made[:-1]:
            target = F.interpolate(batch.target, size=cube.shape[-2:], mode="area")
            valid = F.interpolate(batch.valid[:, None], size=cube.shape[-2:], mode="area")
            error = ((cube - target) / unit).abs().mean(dim=1, keepdim=True)
            loss = loss + EARLY_STEPS * (error * valid).mean(dim=(1, 2, 3))
        return loss


def make_task(network: nn.Module, setup: TaskSetup) -> MpsrnetTask:
    """Return the training task."""
    if not isinstance(network, Mpsrnet):
        raise TypeError("not the network of this method")
    return MpsrnetTask(network, setup)
