"""Adapt a trained network to one scene: train it on that scene at reduced resolution, before it fuses the scene."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionMethod, NetworkMethod, Quality
from hsfuse.fusion.registry import NetworkEntry, architecture
from hsfuse.inference.pipeline import scene_context
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.threads import single_threaded
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.settings import LoopSettings
from hsfuse.training.source import Sampling
from hsfuse.training.task import Scores, TrainingTask
from hsfuse.workflows.training.training_scene import scene_as_training

if TYPE_CHECKING:
    from torch import nn

_log = get_logger(__name__)

_LEARNING_RATE = 3e-4
"""A third of that of a training from scratch: the weights are good already."""
_VALIDATE_EVERY = 25
_SCENE_LEARNING_RATE, _SCENE_STEPS, _SCENE_VALIDATE_EVERY = 2e-3, 400, 40
"""Of networks that learn from a scene's own degraded windows: these are few and always the same, and after so many
steps nothing more is gained."""
_GAP_PX = 18
_SMALL_GAP_PX = 3
_STRIP_PX, _LEAST_SHARE, _MOST_SHARE = 54, 0.2, 0.4
"""Length that training and validation strips should have, HSI pixels: degraded by a ratio of 3, with a footprint that
lies askew in them, experts can still learn from them. And the share of the scene that validates."""


@dataclass(frozen=True)
class Adaptation:
    """What adapting brought.

    Attributes
    ----------
    before, after
        Scores on held-out parts of the scene at reduced resolution.
    steps, seconds
        Training that was done.
    """

    before: Scores
    after: Scores
    steps: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "steps": self.steps, "seconds": round(self.seconds, 1),
            "before": self.before.to_json(), "after": self.after.to_json(),
        }  # fmt: skip


def adapt(
    method: FusionMethod,
    scene: FusionScene,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    patch_px: int = 48,
    batch: int = 8,
    seed: int = 0,
    base: str = "",
    quality: Quality = "standard",
    calibrate: bool = True,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Adaptation:
    """Adapt the network of a method to a scene, in place and before ``method.fit``.

    The weights with the best score on parts of the scene that are held out are kept; where training does not help,
    those are the weights that it started from.

    Parameters
    ----------
    method
        A network with trained weights, not yet fitted.
    scene
        Prepared pair; its bands are those of the network, in the network's order.
    minutes, steps
        Budget; at least one.
    device
        Torch device name.
    precision
        ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU.
    patch_px, batch
        Size and number of the training patches, where the network learns from reduced pairs.
    seed
        Of everything random.
    base
        Method of the base estimate with which the network was trained; empty: the network's default.
    quality
        That the scene will be fused with.
    calibrate
        Whether blur and residual shift may be looked for; see :class:`hsfuse.fusion.base.FusionContext`.
    scratch
        Folder that holds the scene while training (a file without a name); None keeps it in memory.
    progress
        Where to show progress.

    Raises
    ------
    UsageError
        The scene's bands are not the network's, or no budget was given.
    InputError, OverlapError
        The scene is too small, or too little of it is valid.
    """
    if not isinstance(method, NetworkMethod):
        raise UsageError(f"The method '{method.spec.name}' has no network to adapt.", hint="Leave out --adapt.")
    entry = architecture(method.architecture)
    if entry.task is None and entry.scene_task is None:
        raise UsageError(f"The network '{method.spec.name}' cannot be adapted.", hint="Leave out --adapt.")
    bands_wanted, n_msi = method.n_bands or len(scene.bands), method.spec.n_msi or len(scene.msi.band_names)
    if len(scene.bands) != bands_wanted or len(scene.msi.band_names) != n_msi:
        raise UsageError(
            f"The network takes {bands_wanted} HSI and {n_msi} MSI bands, the scene brings "
            f"{len(scene.bands)} and {len(scene.msi.band_names)}.",
            hint="Select the network's bands, or leave out --adapt.",
        )
    network = copy.deepcopy(method.network).float().requires_grad_(True)
    gpu = device.startswith("cuda")
    if entry.scene_task is not None:
        with single_threaded():
            strips = list(scene.low_resolution_strips())
        context = scene_context(scene, device, seed, calibrate=calibrate)
        task: TrainingTask = entry.scene_task(network, context, strips, quality)
        rate, most, every = _SCENE_LEARNING_RATE, _SCENE_STEPS, _SCENE_VALIDATE_EVERY
    else:
        sampling = Sampling(
            ratios=(scene.ratio,), patch_px=patch_px, window_px=max(192, patch_px), batch=batch, seed=seed, prefetch=gpu
        )
        task = _task_on_pairs(entry, network, scene, sampling, base=base, device=device, scratch=scratch)
        rate, most, every = _LEARNING_RATE, None, _VALIDATE_EVERY
    limits = [number for number in (steps, most) if number is not None]
    settings = LoopSettings(
        learning_rate=rate, steps=min(limits, default=None), minutes=minutes, validate_every=every, ema=0.98,
        micro_batch=batch if gpu else 2,
        precision="bf16" if precision == "bf16" or (precision == "auto" and gpu) else "fp32",
    )  # fmt: skip
    result = train(task, settings, device=device, progress=progress)
    if result.best_step:
        method.network.load_state_dict(result.network.state_dict())
    _log.info(
        "Adapted in %d steps; on windows of the scene that were held out: %s; before: %s.",
        result.steps, result.best.text, result.first.text,
    )  # fmt: skip
    return Adaptation(result.first, result.best, result.steps, result.seconds)


def _task_on_pairs(
    entry: NetworkEntry, network: nn.Module, scene: FusionScene, sampling: Sampling, *, base: str, device: str,
    scratch: Path | None,
) -> TrainingTask:  # fmt: skip
    """Make the task of a network that learns from reduced pairs: the scene is its only one."""
    if entry.task is None:
        raise UsageError(f"The network '{entry.architecture}' cannot be adapted.", hint="Leave out --adapt.")
    bands = scene.hsi.bands.take(scene.bands)
    own = SceneEntry.of(_with_own_guide(scene_as_training(scene, scene.hsi.info.name, scratch=scratch)))
    # Of a small scene the strip between training and validation would leave nothing.
    length = max(own.shape)
    gap = int(min(max((length - 2 * _STRIP_PX) // 2, _SMALL_GAP_PX), _GAP_PX))
    share = min(max(_STRIP_PX / length, _LEAST_SHARE), _MOST_SHARE)
    sampling = replace(sampling, gap_px=gap, validation_share=share)
    task: TrainingTask = entry.task(
        network, TaskSetup([own], sampling, bands.centre_nm, bands.fwhm_nm, base=base, device=device)
    )
    return task


def _with_own_guide(scene: TrainingScene) -> TrainingScene:
    """Let the guide be made from the HSI, where its bands cover those of the MSI.

    The measured MSI is misaligned by a fraction of a pixel: at reduced resolution the network would learn to undo that
    shift, and would do it to the cube as well. What the HSI itself shows of the MSI is aligned with the truth.
    """
    covered = bool(scene.srf) and bool(np.all(scene.srf[0].sum(axis=1) > 0))
    return replace(scene, msi=None) if covered else scene
