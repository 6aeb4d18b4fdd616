"""SSRFN as published: spatial-spectral recurrent fusion network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.methods.ssrfn_paper.config import REFERENCE, SsrfnConfig
from hsfuse.fusion.registry import MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

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

    return Ssrfn(SsrfnConfig.from_dict(settings))


def _wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod

    return SsrfnMethod(loaded, **options)


def _task(network: Any, setup: TaskSetup) -> TrainingTask:
    from hsfuse.fusion.methods.ssrfn_paper.task import SsrfnTask

    return SsrfnTask(network, setup)


_FORMER_SETTINGS = ("noise_aware", "error_scaled", "spectral_skip", "guide_denoiser", "estimate_features")
"""Of networks that corrected a base estimate; the last one meant nothing in others."""


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings.get("base") == "estimate" or any(settings.get(name) for name in _FORMER_SETTINGS[:-1]):
        raise UsageError(
            "Such a network corrected a base estimate, or denoised the guide; SSRFN does so no more.",
            hint="--method ssrfn and ssrfn-lite take its place, with weights that come with hsfuse.",
        )
    return SsrfnConfig.from_dict({k: v for k, v in settings.items() if k not in _FORMER_SETTINGS}).to_dict()


PAPER = MethodEntry(
    name="ssrfn-paper",
    family="network",
    summary="SSRFN as published, width 256, without a base estimate; needs a GPU",
    reference=REFERENCE,
    licence="none",
    network=NetworkEntry(
        architecture="ssrfn",
        settings=SsrfnConfig().to_dict(),
        build=_build,
        wrap=_wrap,
        task=_task,
        complete=_complete,
        recipes={"paper": PAPER_RECIPE},
        precisions=("fp32", "bf16", "fp16"),
    ),
)
