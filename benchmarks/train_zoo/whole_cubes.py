"""Whole cubes of the training sites as the gate's training sees them beside windows: pairs as the package fuses them.

Windows have few pixels to learn from, any bands and any noise; a gate that saw windows alone trusted what denoises
less than gains on whole cubes. So every cube of the training sites is degraded as in real_pairs.py, repaired, and its
experts are asked. They are kept in a folder: what was worked out once is read back.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_weights import Remembering
from quality_scenes import FloatCube, ReferenceScene
from real_pairs import RATIO, make_pair, split_scenes
from safetensors.torch import load_file, save_file
from torch import Tensor

from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError
from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.methods.ssrfn.augmentation import disturbed
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.objective import WeighedWindow, as_tensors, with_tensors
from hsfuse.fusion.methods.ssrfn.task import GateTask
from hsfuse.fusion.mixing import mix
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.log import get_logger
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.pairs import Batch, PairFacts, ReducedPair
from hsfuse.training.task import step_rng
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

SETTINGS = ("35dB", "field")
_WHOLE_PX = 512
"""Of a tile, HSI pixels: more than any of these cubes."""
Kinds = Sequence[tuple[Sequence[ReducedPair], float]]
VNIR_NM = (430.0, 900.0)
"""What :func:`short_waves` keeps: sensors without short-wave infrared see about that."""
_LEAST_BANDS = 20
_ANY = 1_000
"""Number of the random values that choose a step's pairs, beyond those of its patches."""
_log = get_logger(__name__)


class MixedTask(GateTask):
    """Learns from pairs of several kinds: each step from pairs of one ratio, drawn from all of them.

    Parameters
    ----------
    network, setup
        As of :class:`GateTask`.
    kinds
        Pairs of each kind and the share of the patches that come from them; the shares sum to 1.
    """

    def __init__(self, network: Gate, setup: TaskSetup, kinds: Kinds = ()) -> None:
        super().__init__(network, setup)
        self.kinds = kinds
        self._groups: dict[int, tuple[list[ReducedPair], list[float]]] = {}

    @property
    def windows(self) -> list[ReducedPair]:
        """All windows of the setup's scenes."""
        rounds, pool = self.setup.sampling.rounds or 0, self.setup.sampling.pool
        return [self.source.window(number, slot) for number in range(rounds) for slot in range(pool)]

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step, each in a spectral basis of its own."""
        if not self._groups:
            for pairs, share in self.kinds:
                for pair in pairs:
                    found, chances = self._groups.setdefault(pair.ratio, ([], []))
                    found.append(pair)
                    chances.append(share / len(pairs))
        rng = step_rng(self.setup.sampling.seed, step, _ANY)
        ratios = sorted(self._groups)
        chance = np.array([sum(self._groups[ratio][1]) for ratio in ratios])
        ratio = ratios[int(rng.choice(len(ratios), p=chance / chance.sum()))]
        pairs, chances = self._groups[ratio]
        chosen = rng.choice(len(pairs), self.batch_size, replace=False, p=np.array(chances) / sum(chances))
        parts = []
        for item in range(rank, self.batch_size, size):
            own = step_rng(self.setup.sampling.seed, step, item)
            patch = pairs[int(chosen[item])].patch(self.source.patch_px(ratio), own)
            parts.append(disturbed(patch, own))
        return Batch.stack(parts)


def short_waves(scene: ReferenceScene) -> ReferenceScene | None:
    """The scene as a sensor without short-wave infrared has it; None: it has few bands there."""
    kept = [k for k, nm in enumerate(scene.bands.centre_nm) if VNIR_NM[0] <= nm <= VNIR_NM[1]]
    if len(kept) < _LEAST_BANDS:
        return None
    return replace(
        scene, name=f"{scene.name}, {VNIR_NM[0]:.0f} to {VNIR_NM[1]:.0f} nm",
        cube=np.ascontiguousarray(scene.cube[kept]), bands=scene.bands.take(kept), srf=scene.srf[:, kept],
    )  # fmt: skip


def whole_cubes(
    split: str, data: Path, cache: Path, network: Gate, seeds: Sequence[int] = (0, 1),
    variant: Callable[[ReferenceScene], ReferenceScene | None] | None = None,
) -> Iterator[ReducedPair]:  # fmt: skip
    """Every cube in all settings; those that are displaced, or too small for experts, are left out.

    Parameters
    ----------
    split
        Side of the sites.
    data
        Folder with cubes/ and srf/.
    cache
        Where experts are kept.
    network
        Any gate: its weights are not used.
    seeds
        Of the noise: so many pairs of each cube and setting.
    variant
        What is made of every cube; None: it stays as it is.
    """
    for _, given in split_scenes(split, data):
        scene = given if variant is None else variant(given)
        if scene is None:
            continue
        for setting in SETTINGS:
            for seed in seeds:
                pair, _ = make_pair(scene, setting, "none", seed)
                digest = hashlib.sha256(f"{scene.name}|{setting}|{seed}|{'|'.join(EXPERTS)}".encode())
                for image in (pair.hsi, pair.msi, pair.truth):
                    digest.update(image.tobytes())
                file = cache / f"whole-{digest.hexdigest()[:24]}.safetensors"
                if file.is_file():
                    tensors = load_file(file)
                else:
                    tensors = _asked(scene, pair.hsi, pair.msi, pair.truth, network)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
                if tensors:
                    yield _paired(scene, pair.hsi, pair.msi, pair.truth, tensors)


def _asked(
    scene: ReferenceScene, hsi: FloatCube, msi: FloatCube, truth: FloatCube, network: Gate
) -> dict[str, Tensor]:  # fmt: skip
    """What the experts say, as of :func:`~hsfuse.fusion.methods.ssrfn.objective.as_tensors`; nothing without them."""
    whole = array_scene(hsi, msi, scene.bands, None, RATIO, Psf(1.0))
    method = Remembering(network, quality="best", validate=False)
    try:
        repaired = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
        pipeline.fuse_to_array(method, repaired, resolved(None), tile=_WHOLE_PX)
    except HsfuseError as error:
        _log.info("%s is left out: %s", scene.name, error.message)
        return {}
    found = None if method.shown is None or method.displaced else method.expert_outputs(*method.shown)
    if found is None:
        return {}
    gate_scene, tile, base, state, outputs = found
    estimate = base + mix(gate_scene.step.back, tile.estimate - tile.start)
    counted = torch.ones(truth.shape[-2:], dtype=torch.bool)
    window = WeighedWindow.of(gate_scene, (state, outputs), estimate, torch.from_numpy(truth)[None], counted)
    return as_tensors([window], gate_scene)[0]


def _paired(
    scene: ReferenceScene, hsi: FloatCube, msi: FloatCube, truth: FloatCube, tensors: dict[str, Tensor]
) -> ReducedPair:  # fmt: skip
    bands = scene.bands
    facts = PairFacts(bands.centre_nm, bands.fwhm_nm, Psf(1.0), None, np.zeros(len(bands.centre_nm)), 0)
    images = (torch.from_numpy(np.ascontiguousarray(image)) for image in (hsi, msi, truth))
    pair = ReducedPair(*images, torch.ones(truth.shape[-2:]), RATIO, scene.name, facts)
    return with_tensors(pair, tensors, "cpu")
