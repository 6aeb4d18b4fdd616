"""How the gate is trained: on reduced pairs whose experts are worked out once and kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hsfuse.errors import OverlapError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.methods.ssrfn.augmentation import disturbed, fewer_bands
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.objective import (
    COLUMNS,
    GateScores,
    WeighedWindow,
    as_tensors,
    judged,
    logarithms,
    with_tensors,
)
from hsfuse.fusion.mixing import mix
from hsfuse.log import as_details
from hsfuse.outputs import part_name
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import PatchTask, TaskSetup, low_resolution_strip
from hsfuse.training.pairs import Batch, ReducedPair
from hsfuse.training.task import step_rng


class GateTask(PatchTask):
    """The gate on reduced pairs.

    Parameters
    ----------
    network
        Moved to the device.
    setup
        Data and settings; its loss is not used.
    """

    columns = COLUMNS

    network: Gate

    def __init__(self, network: Gate, setup: TaskSetup) -> None:
        self.base = "glp"
        super().__init__(network, setup)

    def start(self) -> None:
        """Make the windows that validate, and those that train where they can be kept."""
        super().start()
        rounds = self.setup.sampling.rounds
        if self.setup.cache is not None and rounds is not None:
            for number in range(rounds):
                self.source.batch(number)

    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """Turn a pair into experts' outputs and what should be added, in canonical components.

        Raises
        ------
        OverlapError
            The window is too small or too little of it is valid.
        """
        file = self._cached(pair)
        if file is not None and file.is_file():
            tensors = load_file(file)
        else:
            tensors = self._work_out(fewer_bands(pair))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                # Processes that train together may work out the same window at a time.
                part = part_name(file.with_stem(f"{file.stem}-{os.getpid()}"))
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
                os.replace(part, file)  # noqa: PTH105 - atomic
        return with_tensors(pair, tensors, self.setup.device)

    def _cached(self, pair: ReducedPair) -> Path | None:
        if self.setup.cache is None:
            return None
        facts = pair.facts
        digest = hashlib.sha256(f"{pair.name}|{facts.seed}|{pair.ratio}|{facts.psf.fwhm_px}|{facts.sensors}".encode())
        # The same window with other noise, blur or gain is another one.
        for image in (pair.hsi, pair.msi, pair.target):
            digest.update(image.cpu().contiguous().numpy().tobytes())
        return self.setup.cache / f"{digest.hexdigest()[:24]}.safetensors"

    @torch.no_grad()
    def _work_out(self, pair: ReducedPair) -> dict[str, Tensor]:
        facts, device = pair.facts, self.setup.device
        method = GateMethod(self.network, quality="best", validate=False)
        context = FusionContext(
            pair.ratio, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, device, facts.seed
        )  # fmt: skip
        with as_details():
            method.fit(context, [low_resolution_strip(pair)])
        found = method.expert_outputs(pair.hsi[None], pair.msi[None])
        if found is None:
            raise OverlapError("The window is too small for experts.")
        scene, tile, base, state, outputs = found
        estimate = base + mix(scene.step.back, tile.estimate - tile.start)
        window = WeighedWindow.of(scene, (state, outputs), estimate, pair.target[None], pair.valid > 0)
        return as_tensors([window], scene, displaced=method.displaced)[0]

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step, each in a spectral basis of its own."""
        batch = self.source.batch(step, rank, size)
        items = range(rank, self.source.batch_size, size)
        seed = self.setup.sampling.seed
        parts = [disturbed(batch.part(i, i + 1), step_rng(seed, step, item)) for i, item in enumerate(items)]
        return Batch.stack(parts)

    def loss(self, sample: Any, group: str, step: int) -> Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return how large an error is left; see :func:`.objective.logarithms`."""
        return logarithms(self.network, sample)

    def validate(self, team: Team) -> GateScores:
        """Compare with the estimate on the validation windows."""
        return judged(self.network, self.validation_pairs, team, self.setup.device)

    def restore_scores(self, values: dict[str, Any]) -> GateScores:
        """Turn what a checkpoint kept into scores."""
        return GateScores(**values)
