"""What the trainings of small networks for changed pairs share."""

from __future__ import annotations

import torch
from quality_scenes import ReferenceScene

from hsfuse.degrade import Psf
from hsfuse.fusion.change.response import Response
from hsfuse.inference import pipeline
from hsfuse.inference.scene_survey import Survey, align_survey, survey_scene
from hsfuse.simulate.wald import WaldPair
from hsfuse.workflows.steps.array_scene import array_scene


def surveyed(scene: ReferenceScene, pair: WaldPair, ratio: int) -> tuple[Survey, Response]:
    """Read a pair as a run does, and find the HSI's response to it."""
    whole = array_scene(pair.hsi, pair.msi, scene.bands, scene.responses, ratio, Psf(1.0))
    context = pipeline.scene_context(whole, "cpu", 0)
    survey = survey_scene(whole, context)
    found = align_survey(survey, context)
    return survey, Response(ratio, context.psf) if found is None else Response(ratio, found.psf, found.offset_px)


def weights_of(layers: torch.nn.ModuleDict) -> dict[str, torch.Tensor]:
    """Weights and biases by the names that the package stores them by."""
    return {f"{kind}_{name}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")}


def step_down(
    total: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:  # fmt: skip
    """Go one step down a loss."""
    optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
