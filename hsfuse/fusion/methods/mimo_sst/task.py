"""MIMO-SST is trained with absolute errors at three scales, and of the Fourier spectrum at the finest."""

from __future__ import annotations

import torch
from torch import Tensor

from hsfuse.fusion.methods.mimo_sst.network import SCALES, MimoSst
from hsfuse.fusion.nets.pair_network import padded_to, resized
from hsfuse.training.fusion_task import ESTIMATE, TaskSetup
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch

SHARE = 0.01
"""Weight of the spectrum, as in the authors' release; their text has a wavelet in its place."""


class MimoSstTask(PairTask):
    """All three heads learn, each from the truth at its scale."""

    network: MimoSst

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return the loss of every patch."""
        pair, start = self.network.scaled(sample.hsi, sample.msi, self.statistics(sample), sample.images.get(ESTIMATE))
        unit = self.unit(sample)[:, :, None, None]
        missing = padded_to((sample.target - start) / unit * sample.valid[:, None], SCALES[-1])
        total = torch.zeros(len(sample), device=unit.device)
        for scale, found in zip(SCALES, self.network.scales(pair), strict=True):
            size = tuple(length // scale for length in missing.shape[-2:])
            weight = resized(padded_to(sample.valid[:, None], SCALES[-1]), size)
            error = found.float() * weight - resized(missing, size)
            total = total + error.abs().mean(dim=(1, 2, 3))
            if scale == 1:
                spectrum = torch.fft.rfft2(error, norm="ortho")
                total = total + SHARE * spectrum.abs().mean(dim=(1, 2, 3))
        return total


def make_task(network: MimoSst, setup: TaskSetup) -> MimoSstTask:
    """Return the training task."""
    return MimoSstTask(network, setup)
