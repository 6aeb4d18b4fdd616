"""SSRFN as published: spatial-spectral recurrent fusion network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hsfuse.fusion.base import FusionMethod, ModelSpec, Precision
from hsfuse.fusion.methods.ssrfn_paper.config import PRESETS, REFERENCE, SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.former import recognises, settings_of_today, tensor_name_of_today
from hsfuse.fusion.registry import FormerWeights, MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

    from hsfuse.fusion.nets.header import NetworkHeader
    from hsfuse.fusion.nets.weights import LoadedNetwork
    from hsfuse.training.fusion_task import TaskSetup
    from hsfuse.training.task import TrainingTask

PAPER_RECIPE: dict[str, Any] = {
    "loss": "mse", "optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup": 1,
    "ema": 0.0, "clip": 0.0, "augment": False, "epochs": 200.0,
}  # fmt: skip
"""As published: squared error, Adam 0.9/0.99, rate 1e-4, 200 epochs."""


def _build(settings: Mapping[str, Any]) -> nn.Module:
    from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn

    return Ssrfn(SsrfnConfig.from_dict(dict(settings)))


def _wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod

    return SsrfnMethod.from_loaded(loaded, **options)


def _foresee(header: NetworkHeader, sha256: str, precision: Precision) -> ModelSpec | None:
    from hsfuse.fusion.methods.ssrfn_paper.description import foresee

    return foresee(header, sha256, precision)


def _task(network: Any, setup: TaskSetup) -> TrainingTask:
    from hsfuse.fusion.methods.ssrfn_paper.task import SsrfnTask

    return SsrfnTask(network, setup)


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    return SsrfnConfig.from_dict(dict(settings)).to_dict()


PAPER = MethodEntry(
    name="ssrfn-paper",
    family="network",
    summary="SSRFN as published, width 256, without a base estimate; needs a GPU",
    reference=REFERENCE,
    licence="none",
    network=NetworkEntry(
        architecture="ssrfn",
        settings=PRESETS["ssrfn-paper"].to_dict(),
        build=_build,
        wrap=_wrap,
        foresee=_foresee,
        task=_task,
        complete=_complete,
        recipes={"paper": PAPER_RECIPE},
        precisions=("fp32", "bf16", "fp16"),
        former=FormerWeights(recognises, settings_of_today, tensor_name_of_today),
    ),
)
