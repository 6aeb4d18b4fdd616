"""MSST-Net is trained with absolute errors, if wanted after both its sides have learned to fill in what is masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hsfuse.fusion.methods.msst_net.network import MsstNet
from hsfuse.training.fusion_task import ESTIMATE, TaskSetup
from hsfuse.training.pair_task import PairTask, absolute_loss
from hsfuse.training.pairs import Batch
from hsfuse.training.task import step_rng

BANDS_MASKED, PATCHES_MASKED = 0.75, 0.5
_BANDS, _PATCHES = "seen_bands", "seen_patches"


class MsstNetTask(PairTask):
    """Masked pretraining for the first steps, then fusion."""

    network: MsstNet

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step, and while pretraining lasts what of each is seen."""
        batch = super().sample(step, rank, size)
        if not self._pretrains(step):
            return batch
        bands, patches, cell = [], [], self.network.settings.patch_px
        rows, cols = batch.msi.shape[-2:]
        for item in range(rank, self.batch_size, size):
            rng = step_rng(self.setup.sampling.seed, step, item)
            bands.append(rng.random(batch.hsi.shape[1]) >= BANDS_MASKED)
            cells = rng.random((-(-rows // cell), -(-cols // cell))) >= PATCHES_MASKED
            patches.append(cells.repeat(cell, 0).repeat(cell, 1)[None, :rows, :cols])
        device = batch.hsi.device
        seen = torch.as_tensor(np.stack(patches), dtype=torch.float32, device=device)
        known = torch.as_tensor(np.stack(bands), dtype=torch.float32, device=device)
        return replace(batch, images={**batch.images, _PATCHES: seen}, values={**batch.values, _BANDS: known})

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:
        """Return what both sides miss of what was masked, or the loss of the fused patches."""
        if not self._pretrains(step):
            return super().loss(sample, group, step)
        pair, _ = self.network.scaled(sample.hsi, sample.msi, self.statistics(sample), sample.images.get(ESTIMATE))
        known, seen = sample.values[_BANDS][:, :, None, None], sample.images[_PATCHES]
        low = self.network.spectral(pair.hsi * known, pair.msi) - pair.hsi
        high = self.network.spatial(pair.fine * seen, pair.msi * seen, pair.ratio) - pair.fine
        return low.float().abs().mean(dim=(1, 2, 3)) + high.float().abs().mean(dim=(1, 2, 3))

    def _pretrains(self, step: int) -> bool:
        return step < (self.network.settings.pretraining_steps or 0)


def make_task(network: MsstNet, setup: TaskSetup) -> MsstNetTask:
    """Return the training task."""
    return MsstNetTask(network, setup, absolute_loss)
