"""MPSRNet-Diff: a diffusion prior of few bands, then super-resolution in steps with mutual-guided Mamba blocks.

Only the abstract is public. Stage 1 follows what its authors build on (low-rank bands, guided sampling of an
unconditional prior); the shape of stage 2 is a reconstruction (see docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.methods.mpsrnet_diff.config import MpsrnetSettings
from hsfuse.fusion.registry import MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

    from hsfuse.fusion.nets.weights import LoadedNetwork
    from hsfuse.training.fusion_task import TaskSetup
    from hsfuse.training.task import TrainingTask

REFERENCE = "Wu et al., MPSRNet-Diff, IEEE JSTARS 19 (2026), reconstructed from its abstract"


def _build(values: Mapping[str, Any]) -> nn.Module:
    from hsfuse.fusion.methods.mpsrnet_diff.network import build

    return build(MpsrnetSettings.from_dict(values))


def _wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.mpsrnet_diff.method import MpsrnetMethod

    return MpsrnetMethod(loaded, reference=REFERENCE, **options)


def _task(network: nn.Module, setup: TaskSetup) -> TrainingTask:
    from hsfuse.fusion.methods.mpsrnet_diff.task import make_task

    return make_task(network, setup)


def _entry(name: str, settings: MpsrnetSettings, summary: str) -> MethodEntry:
    return MethodEntry(
        name=name,
        family="network",
        summary=summary,
        reference=REFERENCE,
        network=NetworkEntry(
            architecture="mpsrnet-diff",
            settings=settings.to_dict(),
            build=_build,
            wrap=_wrap,
            task=_task,
            complete=lambda values: MpsrnetSettings.from_dict(values).to_dict(),
            recipes={"paper": {"loss": "l1", "lr": 2e-4, "weight_decay": 0.0, "ema": 0.0}},
            takes_prior=True,
        ),
    )


PUBLISHED = _entry("mpsrnet-diff", MpsrnetSettings(), "MPSRNet-Diff, for a panchromatic guide; needs a GPU to train")
LITE = _entry(
    "mpsrnet-diff-lite",
    MpsrnetSettings(width=24, blocks=1, state=8, fold=2, base="estimate", prior_steps=4),
    "MPSRNet-Diff for two CPU cores, corrects a base estimate",
)
