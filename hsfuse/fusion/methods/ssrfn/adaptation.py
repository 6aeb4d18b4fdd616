"""How the gate is adapted to a scene: on the scene's own degraded windows, whose experts are worked out once.

These are the windows that the fit makes to learn how wrong the estimate is: the measured pair one level down, with the
noise that averaging took away put back onto both images. The gate learns to weigh just those experts that will correct
the scene, in its bands, noise and blur; pairs that are made and disturbed as in a training taught it less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hsfuse.errors import DisplacedPairError, OverlapError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip, Quality
from hsfuse.fusion.create import create_method
from hsfuse.fusion.experts.tile import evaluate
from hsfuse.fusion.map.degraded import MAX_WINDOWS, DegradedWindow, degraded_windows
from hsfuse.fusion.map.method import ReducedFit
from hsfuse.fusion.methods.ssrfn.augmentation import disturbed
from hsfuse.fusion.methods.ssrfn.config import BASE
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.objective import (
    COLUMNS,
    GateScores,
    WeighedWindow,
    as_tensors,
    judged,
    losses,
    with_tensors,
)
from hsfuse.fusion.methods.ssrfn.scene import GateScene, kind_of, refined_base, state_of
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.training.distributed import Team
from hsfuse.training.pairs import Batch, PairFacts, ReducedPair
from hsfuse.training.task import TrainingTask, step_rng

_MOST_WINDOWS = 72
"""Degraded windows that are learned from: about all that the strips of a scene hold."""
_HELD_OUT_EVERY = 5
_BATCH, _PATCH_PX = 8, 24


class SceneTask(TrainingTask):
    """The gate on degraded windows of one scene; every fifth of them validates.

    Parameters
    ----------
    network
        With the weights to start from.
    context, strips
        Of the scene, as methods get them.
    quality
        That the scene will be fused with: ``best`` asks non-local Bayes too.
    """

    columns = COLUMNS
    base = BASE
    network: Gate

    def __init__(
        self, network: Gate, context: FusionContext, strips: Sequence[LowResolutionStrip], quality: Quality
    ) -> None:
        self.network = network
        self._context, self._strips, self._quality = context, strips, quality
        self._training: list[ReducedPair] = []
        self._held_out: list[ReducedPair] = []
        self._patch_px = _PATCH_PX

    @property
    def batch_size(self) -> int:
        """Patches of a step."""
        return _BATCH

    def start(self) -> None:
        """Work out the experts of all windows.

        Raises
        ------
        OverlapError
            The scene is too small for that.
        DisplacedPairError
            HSI and guide are displaced locally: what is the truth there lies as the HSI, on the scene as the guide.
        """
        pairs = self._pairs()
        # The last strip of a scene may be a narrow one, and patches of a step are alike in size.
        large = [pair for pair in pairs if min(pair.valid.shape) >= _PATCH_PX]
        pairs = large if len(large) > 1 else pairs
        self._patch_px = min(_PATCH_PX, *(side for pair in pairs for side in pair.valid.shape))
        held_out = set(range(_HELD_OUT_EVERY // 2, len(pairs), _HELD_OUT_EVERY)) or {len(pairs) - 1}
        self._held_out = [pair for number, pair in enumerate(pairs) if number in held_out]
        self._training = [pair for number, pair in enumerate(pairs) if number not in held_out]
        if not self._training:
            raise _too_small()

    @torch.no_grad()
    def _pairs(self) -> list[ReducedPair]:
        context = self._context
        base = refined_base(create_method(BASE), context.ratio)
        base.fit(context, self._strips)
        reduced_fit, model, record = base.take_reduced_fit(), base.scene_model, base.refinement
        if reduced_fit is None or model is None or not GateScene.testable(reduced_fit):
            raise _too_small()
        if record is not None and GateScene.displaced(record, model):
            raise DisplacedPairError(
                f"HSI and guide are displaced locally by {record.displacement_px:g} HSI pixels, and degraded windows "
                "would teach that displacement.",
                hint="Leave out --adapt.",
            )
        scene = GateScene.of_windows(reduced_fit, model, kind_of(base), seed=context.seed, device=context.device)
        pairs, weighed = [], []
        for window in _windows(reduced_fit, model, context.seed):
            counted = torch.from_numpy(window.counted).to(context.device)
            if not bool(counted.any()):
                continue
            low, guide = (torch.from_numpy(np.ascontiguousarray(image))[None] for image in (window.low, window.guide))
            fused = reduced_fit.method.fuse(low.to(context.device), guide.to(context.device)).float()
            tile, started = state_of(scene.step, reduced_fit.method, window, fused)
            asked = evaluate(scene.bank, tile, best=self._quality == "best")
            estimate = started + mix(scene.step.back, tile.estimate - tile.start)
            truth = torch.from_numpy(window.truth)[None].to(context.device)
            weighed.append(WeighedWindow.of(scene, asked, estimate, truth, counted))
            facts = PairFacts(
                context.centre_nm, context.fwhm_nm, model.psf, context.srf, model.space.noise, context.seed
            )  # fmt: skip
            pairs.append(ReducedPair(low[0], guide[0], truth[0], counted.float(), model.ratio, "scene", facts))
        if not pairs:
            raise _too_small()
        noise = torch.from_numpy(model.space.noise.astype(np.float32)).to(context.device)
        tensors = as_tensors(weighed, scene, noise=noise)
        return [with_tensors(pair, of, context.device) for pair, of in zip(pairs, tensors, strict=True)]

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step, each in a spectral basis of its own."""
        seed, parts = self._context.seed, []
        for item in range(rank, _BATCH, size):
            rng = step_rng(seed, step, item)
            pair = self._training[int(rng.integers(len(self._training)))]
            side = self._patch_px // pair.ratio * pair.ratio
            parts.append(disturbed(pair.patch(side, rng), rng))
        return Batch.stack(parts)

    def loss(self, sample: Any, group: str, step: int) -> torch.Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return the error that is left; see :func:`.objective.losses`."""
        return losses(self.network, sample)

    def validate(self, team: Team) -> GateScores:
        """Compare with the estimate on the windows that were held out."""
        return judged(self.network, self._held_out, team, self._context.device)

    def restore_scores(self, values: dict[str, Any]) -> GateScores:
        """Turn what a checkpoint kept into scores."""
        return GateScores(**values)


def _windows(reduced_fit: ReducedFit, model: SceneModel, seed: int) -> Sequence[DegradedWindow]:
    """All windows that the strips hold; those of the fit where it had all of them."""
    if len(reduced_fit.windows) < MAX_WINDOWS:
        return reduced_fit.windows
    return degraded_windows(reduced_fit.strips, model, seed=seed, guide_noise=1.0, most=_MOST_WINDOWS)


def _too_small() -> OverlapError:
    return OverlapError(
        "Too little of the scene is whole and unchanged for experts to learn from degraded windows of it."
    )
