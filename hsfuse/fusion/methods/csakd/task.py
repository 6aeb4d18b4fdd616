"""Distillation: the student learns from the truth, from the teacher's cube and from the teacher's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.errors import UsageError
from hsfuse.fusion.methods.csakd.network import Csakd
from hsfuse.fusion.nets.pair_network import PairNetwork, n_parameters
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.losses import smooth_l1_angle_loss
from hsfuse.training.pair_task import PairTask
from hsfuse.training.pairs import Batch
from hsfuse.training.task import ParameterGroup

SHARE = 0.1
"""Weight of what the teacher says against the truth."""


def loss(fused: Tensor, batch: Batch, unit: Tensor) -> Tensor:
    """Return the loss of every patch against the truth."""
    return smooth_l1_angle_loss(fused, batch.target, unit, batch.valid)


class DistillationTask(PairTask):
    """A teacher is trained before or beside the student, each with its own optimiser; the student is kept.

    Parameters
    ----------
    network
        The student.
    setup
        Data and settings.

    Raises
    ------
    UsageError
        The settings leave no teacher that is larger than the student.
    """

    network: Csakd

    def __init__(self, network: Csakd, setup: TaskSetup) -> None:
        super().__init__(network, setup, loss)
        s = network.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.sampling.seed + 1)
            deep = replace(
                s, depth_high=s.teacher_high, depth_low=s.teacher_low, depth_hsi=s.teacher_hsi,
                depth_msi=s.teacher_msi, grouped=False, distil=False,
            )  # fmt: skip
            self.teacher = Csakd(deep).to(setup.device)
        if n_parameters(self.teacher) <= n_parameters(network):
            raise UsageError(
                "Distillation needs a teacher, and that of these settings is no larger than its student.",
                hint="Raise teacher_high, teacher_low, teacher_hsi or teacher_msi, or set distil=false.",
            )

    def modules(self) -> Mapping[str, nn.Module]:
        """Both networks."""
        return {"network": self.network, "teacher": self.teacher}

    def groups(self) -> Sequence[ParameterGroup]:
        """The teacher's step comes first."""
        return [
            ParameterGroup("teacher", self.trainable("teacher")),
            ParameterGroup("student", self.trainable("network")),
        ]

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:
        """Return the teacher's own loss, or the student's with what the teacher says."""
        unit = self.unit(sample)
        if group == "teacher":
            return loss(self.call(self.teacher, sample), sample, unit)
        fused, own = self._with_features(self.network, sample)
        if step < (self.network.settings.teacher_steps or 0):
            return 0.0 * fused.mean(dim=(1, 2, 3))
        with torch.no_grad():
            taught, features = self._with_features(self.teacher, sample)
        cube = smooth_l1_angle_loss(fused, taught, unit, sample.valid, share=0.0)
        # The published form: cross entropy of the student's features against the teacher's, squeezed to 0 to 1.
        hint = F.binary_cross_entropy_with_logits(own.float(), torch.sigmoid(features.float()), reduction="none")
        return loss(fused, sample, unit) + SHARE * cube + SHARE * hint.mean(dim=(1, 2, 3))

    def _with_features(self, network: Csakd, batch: Batch) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        handle = network.head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        try:
            fused = self.call(network, batch)
        finally:
            handle.remove()
        return fused, kept[0]


def make_task(network: PairNetwork, setup: TaskSetup) -> PairTask:
    """Return the training task: distillation where the settings want it."""
    if isinstance(network, Csakd) and network.settings.distil:
        return DistillationTask(network, setup)
    return PairTask(network, setup, loss)
