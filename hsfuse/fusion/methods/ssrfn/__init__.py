"""SSRFN that weighs the experts of a scene: one file of weights for any bands, any MSI and any ratio, in two sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, Quality
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, REFERENCE, GateConfig
from hsfuse.fusion.registry import MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

    from hsfuse.fusion.nets.weights import LoadedNetwork
    from hsfuse.training.fusion_task import TaskSetup
    from hsfuse.training.task import TrainingTask

RECIPE: dict[str, Any] = {"weight_decay": 1e-2, "ema": 0.998, "warmup": 50, "rounds": 12}


def _build(settings: Mapping[str, Any]) -> nn.Module:
    from hsfuse.fusion.methods.ssrfn.network import Gate

    return Gate(GateConfig.from_dict(settings))


def _wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.ssrfn.method import GateMethod

    return GateMethod.from_loaded(loaded, **options)


def _task(network: Any, setup: TaskSetup) -> TrainingTask:
    from hsfuse.fusion.methods.ssrfn.task import GateTask

    return GateTask(network, setup)


def _scene_task(
    network: Any, context: FusionContext, strips: Sequence[LowResolutionStrip], quality: Quality
) -> TrainingTask:
    from hsfuse.fusion.methods.ssrfn.adaptation import SceneTask

    return SceneTask(network, context, strips, quality)


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    return GateConfig.from_dict(settings).to_dict()


def _entry(name: str, config: GateConfig, summary: str, auto_rank: int) -> MethodEntry:
    return MethodEntry(
        name=name,
        family="network",
        summary=summary,
        reference=REFERENCE,
        network=NetworkEntry(
            architecture=ARCHITECTURE,
            settings=config.to_dict(),
            build=_build,
            wrap=_wrap,
            task=_task,
            scene_task=_scene_task,
            complete=_complete,
            recipes={"default": RECIPE},
            any_bands=True,
            # With less than that they gain a tenth of a decibel over glp and its step, at three times their time.
            refines_with=("best",),
            superseded={"ssrfn": "which corrected a base estimate in bands of its own"},
            former_architectures=("ssrfn-gate",),
        ),
        auto_rank=auto_rank,
        former_names=("ssrfn-gate",) if name == "ssrfn-lite" else (),
    )


# `auto` tries the one first that takes less time.
LITE = _entry(
    "ssrfn-lite",
    GateConfig(displaced=True, change=True),
    "weighs experts fitted in the scene by a few convolutions; any bands",
    0,
)
# Its weights were widened from 8 channels.
EVERYDAY = _entry(
    "ssrfn", GateConfig(backbone="ssrfn", displaced=True, copies=2, displaced_copies=2, change=True),
    "weighs experts fitted in the scene by the modules of SSRFN; any bands", 1,
)  # fmt: skip
