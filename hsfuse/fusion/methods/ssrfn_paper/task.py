"""How SSRFN is trained: it corrects the base estimate that a classical method makes of each reduced pair."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.methods.ssrfn_paper.config import DEFAULT_BASE
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.training.fusion_task import ESTIMATE, FusionTask, TaskSetup, low_resolution_strip
from hsfuse.training.pairs import Batch, ReducedPair


class SsrfnTask(FusionTask):
    """SSRFN on reduced pairs.

    Parameters
    ----------
    network
        Its guide denoiser, if it has one, is trained apart and stays as it is.
    setup
        Data and settings.
    """

    network: Ssrfn

    def __init__(self, network: Ssrfn, setup: TaskSetup) -> None:
        if network.denoiser is not None:
            network.denoiser.requires_grad_(False)
        self.base = (setup.base or DEFAULT_BASE) if network.config.base == "estimate" else ""
        super().__init__(network, setup)

    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """As its base; the base estimate is made of the denoised MSI."""
        strip = low_resolution_strip(pair)
        statistics = SceneStatistics.of_pair(gather([strip]), self.setup.device)
        pair = replace(pair, msi=self._denoised(pair, statistics))
        return self.with_statistics(self.with_estimate(pair, strip), statistics)

    def fuse(self, batch: Batch) -> Tensor:
        """Correct the base estimates of patches."""
        base, change = self.network.parts(batch.hsi, batch.msi, batch.images.get(ESTIMATE), self.statistics(batch))
        return base + change.float()

    def save_memory(self, on: bool) -> bool:
        """Compute Mamba blocks twice instead of storing what they need for the gradient."""
        self.network.set_recompute(on)
        return not on or any(isinstance(module, SequenceMixer) for module in self.network.modules())

    def _denoised(self, pair: ReducedPair, statistics: SceneStatistics) -> Tensor:
        if self.network.denoiser is None:
            return pair.msi
        noise = guide_noise([GuideSample.take(pair.msi.cpu().numpy(), pair.valid.bool().cpu().numpy())])
        level = None if noise is None else torch.as_tensor(noise, dtype=torch.float32, device=self.setup.device)[None]
        return self.network.denoise(pair.msi[None], statistics, level)[0]
