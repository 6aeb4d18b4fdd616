"""Adversarial training: generator and discriminator, each with its own optimiser; the generator is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hsfuse.fusion.methods.qis_gan.network import Discriminator, QisGenerator
from hsfuse.fusion.nets.pair_network import MIN_STD
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.losses import edge_loss
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch
from hsfuse.training.task import ParameterGroup

_WIDEST = 64


class AdversarialTask(PairTask):
    """The generator minimises absolute error, errors of differences, and the discriminator's disbelief."""

    network: QisGenerator

    def __init__(self, network: QisGenerator, setup: TaskSetup) -> None:
        super().__init__(network, setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.sampling.seed + 1)
            width = min(_WIDEST, network.settings.width)
            self.discriminator = Discriminator(network.settings.n_bands, width).to(setup.device)

    def modules(self) -> Mapping[str, nn.Module]:
        """Both networks."""
        return {"network": self.network, "discriminator": self.discriminator}

    def groups(self) -> Sequence[ParameterGroup]:
        """The discriminator's step comes first."""
        return [
            ParameterGroup("discriminator", self.trainable("discriminator")),
            ParameterGroup("generator", self.trainable("network")),
        ]

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:  # noqa: ARG002 - all steps alike
        """Return the loss of the group's network for every patch."""
        std = sample.values["std"].clamp(min=MIN_STD)[:, :, None, None]
        mean = sample.values["mean"][:, :, None, None]
        fused = self.fuse(sample)
        if group == "discriminator":
            real, false = (self.discriminator((cube - mean) / std) for cube in (sample.target, fused.detach()))
            return 1.0 - real + false
        error = (fused - sample.target) / self.unit(sample)[:, :, None, None] * sample.valid[:, None]
        believed = self.discriminator((fused - mean) / std)
        return error.abs().mean(dim=(1, 2, 3)) + edge_loss(error) + (1.0 - believed)


def make_task(network: QisGenerator, setup: TaskSetup) -> AdversarialTask:
    """Return the training task."""
    return AdversarialTask(network, setup)
