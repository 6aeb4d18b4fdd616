"""A gate over the experts of a scene: one small network for any bands, any MSI and any ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.methods.ssrfn_gate.config import REFERENCE, GateConfig
from hsfuse.fusion.registry import MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

    from hsfuse.fusion.nets.weights import LoadedNetwork
    from hsfuse.training.fusion_task import TaskSetup
    from hsfuse.training.task import TrainingTask

RECIPE: dict[str, Any] = {"weight_decay": 1e-2, "ema": 0.998, "warmup": 50, "rounds": 12}


def _build(settings: Mapping[str, Any]) -> nn.Module:
    from hsfuse.fusion.methods.ssrfn_gate.network import build

    return build(GateConfig.from_dict(settings))


def _wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.ssrfn_gate.method import GateMethod

    return GateMethod.from_loaded(loaded, **options)


def _task(network: Any, setup: TaskSetup) -> TrainingTask:
    from hsfuse.fusion.methods.ssrfn_gate.task import GateTask

    return GateTask(network, setup)


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    return GateConfig.from_dict(settings).to_dict()


GATE = MethodEntry(
    name="ssrfn-gate",
    family="network",
    summary="a small network weighs experts fitted in the scene; any bands, any ratio",
    reference=REFERENCE,
    network=NetworkEntry(
        architecture="ssrfn-gate",
        settings=GateConfig().to_dict(),
        build=_build,
        wrap=_wrap,
        task=_task,
        complete=_complete,
        recipes={"default": RECIPE},
        any_bands=True,
        # With less than that it gains a tenth of a decibel over glp and its step, at three times their time.
        refines_with=("best",),
    ),
    auto_rank=2,
)
