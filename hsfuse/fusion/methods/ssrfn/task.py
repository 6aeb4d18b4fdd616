"""How the gate is trained: on reduced pairs whose experts are worked out once and kept.

What it minimises is the error of a pair in canonical components, measured as the mean over the bands of the square
error relative to that of the estimate it starts from. Every step turns the spectral basis at random, changes its signs,
the unit of the noise and the number of components, and leaves experts out: the gate cannot learn spectra by heart.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from hsfuse.errors import OverlapError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.experts.bank import EXPERTS, NONLOCAL
from hsfuse.fusion.map.posterior import mix
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.outputs import part_name
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import PatchTask, TaskSetup, low_resolution_strip
from hsfuse.training.pairs import Batch, ReducedPair
from hsfuse.training.task import step_rng

OUTPUTS, STATE = "expert_outputs", "state"
STRENGTH, METRIC, CAP = "log_strength", "metric", "cap"
_CAP_PERCENTILE = 99.0
"""Of pixel errors; beyond, they count with their root: a few saturated pixels would hold half the error."""
_ENOUGH = 0.95
"""Share of the estimate's error above which a patch counts as lost: the mean hides patches that a gate makes worse."""
_FEWEST, _MOST_BANDS = 20, 160
_BLIND_SHARE = 0.5
"""Pairs whose MSI responses are not told."""
_TURN_SHARE, _FEWER_SHARE, _FEWEST_COMPONENTS = 0.5, 0.3, 5
_WITHOUT_NONLOCAL, _DROPPED = 0.3, 0.1
_NOISE_UNIT = 0.2


@dataclass(frozen=True)
class GateScores:
    """Means over the validation windows.

    Attributes
    ----------
    gain_db
        Fall of the error relative to the estimate that the gate starts from.
    worst_gain_db
        In the window where it is smallest.
    gain_without_db
        The same as ``gain_db`` without the experts of non-local Bayes.
    """

    gain_db: float
    worst_gain_db: float
    gain_without_db: float

    @property
    def quality(self) -> float:
        """Both uses count."""
        return 0.5 * (self.gain_db + self.gain_without_db)

    @property
    def text(self) -> str:
        """For the log."""
        return (
            f"{self.gain_db:+.3f} dB over the estimate (worst {self.worst_gain_db:+.3f}), {self.gain_without_db:+.3f} "
            "dB without non-local experts"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


class GateTask(PatchTask):
    """The gate on reduced pairs.

    Parameters
    ----------
    network
        Moved to the device.
    setup
        Data and settings; its loss is not used.
    """

    columns = ("gain_db", "worst_gain_db", "gain_without_db")

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
        images = {OUTPUTS: tensors[OUTPUTS], STATE: tensors[STATE]}
        values = {name: tensors[name].to(self.setup.device) for name in (STRENGTH, METRIC, CAP)}
        # What follows needs neither image but their sizes; patches of them would only be copied.
        return replace(
            pair, hsi=pair.hsi[:0], msi=pair.msi[:0], target=tensors["target"].to(self.setup.device), images=images,
            values=values,
        )  # fmt: skip

    def _cached(self, pair: ReducedPair) -> Path | None:
        if self.setup.cache is None:
            return None
        facts = pair.facts
        key = f"{pair.name}|{facts.seed}|{pair.ratio}|{tuple(pair.target.shape)}|{facts.psf.fwhm_px}"
        return self.setup.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"

    @torch.no_grad()
    def _work_out(self, pair: ReducedPair) -> dict[str, Tensor]:
        facts, device = pair.facts, self.setup.device
        method = GateMethod(self.network, quality="best", validate=False)
        context = FusionContext(
            pair.ratio, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, device, facts.seed
        )  # fmt: skip
        method.fit(context, [low_resolution_strip(pair)])
        found = method.expert_outputs(pair.hsi[None], pair.msi[None])
        if found is None:
            raise OverlapError("The window is too small for experts.")
        scene, tile, base, state, outputs = found
        step, canonical = scene.step, scene.bank.canonical
        constant = (step.forward @ step.mean)[:, None, None]
        miss = mix(canonical.into, mix(step.forward, pair.target[None]) - constant) - state
        estimate = base + mix(step.back, tile.estimate - tile.start)
        ok = pair.valid > 0
        square = (estimate[0] - pair.target)[:, ok].square().mean(dim=1)
        out = step.back @ canonical.out
        metric = out.T @ (out / square.clamp_min(1e-12)[:, None])
        error = torch.einsum("khw,kl,lhw->hw", miss[0], metric, miss[0])[ok]
        level = error.mean().clamp_min(1e-12)
        cap = torch.quantile((error / level).flatten()[: 1 << 23], _CAP_PERCENTILE / 100.0)
        count = canonical.count
        more = MOST_COMPONENTS - count
        pad = torch.nn.functional.pad
        return {
            OUTPUTS: pad(outputs[0], (0, 0, 0, 0, 0, more)).flatten(0, 1).half(),
            STATE: pad(state[0], (0, 0, 0, 0, 0, more)).half(),
            "target": pad(miss[0], (0, 0, 0, 0, 0, more)).float(),
            STRENGTH: pad(canonical.log_strength, (0, more))[None].clone(),
            METRIC: pad(metric / level, (0, more, 0, more))[None].clone(),
            CAP: cap[None].clone(),
        }

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step, each in a spectral basis of its own."""
        batch = self.source.batch(step, rank, size)
        items = range(rank, self.source.batch_size, size)
        seed = self.setup.sampling.seed
        parts = [_disturbed(batch.part(i, i + 1), step_rng(seed, step, item)) for i, item in enumerate(items)]
        return Batch.stack(parts)

    def loss(self, sample: Any, group: str, step: int) -> Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return the error that is left, relative to the estimate's, shape (n,); what a patch loses counts twice."""
        cap = sample.values[CAP][:, None]
        before = _huber(_energy(sample.target, sample), cap).mean(dim=1)
        left = _huber(self._left(sample), cap).mean(dim=1)
        return (left + torch.relu(left - _ENOUGH * before)) / (0.5 * before + 0.5)

    def _left(self, batch: Batch) -> Tensor:
        """Error by pixel, shape (n, pixel)."""
        outputs = batch.images[OUTPUTS].float().unflatten(1, (len(EXPERTS), -1))
        correction = self.network(batch.images[STATE].float(), outputs, batch.values[STRENGTH], batch.ratio)
        return _energy(batch.target - correction, batch)

    @torch.no_grad()
    def validate(self, team: Team) -> GateScores:
        """Compare with the estimate on the validation windows."""
        table = torch.zeros(len(self.validation_pairs), 2, dtype=torch.float64)
        for number in range(team.rank, len(table), team.size):
            batch = self.validation_pairs[number].batch()
            before = float(_energy(batch.target, batch).mean())
            for column, one in enumerate((batch, _without_nonlocal(batch))):
                left = float(self._left(one).mean())
                table[number, column] = 10.0 * np.log10(before / max(left, 1e-12))
        shared = table.to(self.setup.device)
        team.add([shared])
        gains: NDArray[np.float64] = shared.cpu().numpy()
        return GateScores(float(gains[:, 0].mean()), float(gains[:, 0].min()), float(gains[:, 1].mean()))

    def restore_scores(self, values: dict[str, Any]) -> GateScores:
        """Turn what a checkpoint kept into scores."""
        return GateScores(**values)


def fewer_bands(pair: ReducedPair) -> ReducedPair:
    """Keep a random choice of the HSI's bands, and tell the MSI's responses or not."""
    facts = pair.facts
    rng = np.random.default_rng([facts.seed, 11])
    bands = len(facts.centre_nm)
    count = min(round(float(np.exp(rng.uniform(np.log(_FEWEST), np.log(_MOST_BANDS))))), bands)
    kept = np.sort(rng.choice(bands, count, replace=False))
    srf = None
    if facts.srf is not None and rng.random() >= _BLIND_SHARE:
        part = facts.srf[:, kept]
        total = part.sum(axis=1, keepdims=True)
        srf = np.where(total > 0.05 * facts.srf.sum(axis=1, keepdims=True), part / np.maximum(total, 1e-9), 0.0)
    index = torch.from_numpy(kept)
    return replace(
        pair, hsi=pair.hsi[index], target=pair.target[index],
        facts=replace(
            facts, centre_nm=facts.centre_nm[kept], fwhm_nm=facts.fwhm_nm[kept], srf=srf,
            truth_noise=facts.truth_noise[kept],
        ),
    )  # fmt: skip


def _energy(x: Tensor, batch: Batch) -> Tensor:
    """Square error by pixel of what is missing in canonical components, shape (n, pixel)."""
    return (torch.einsum("nkhw,nkl,nlhw->nhw", x, batch.values[METRIC], x) * batch.valid).flatten(1)


def _huber(energy: Tensor, cap: Tensor) -> Tensor:
    return torch.where(energy < cap, energy, 2.0 * torch.sqrt(cap * energy.clamp_min(1e-9)) - cap)


def _without_nonlocal(batch: Batch) -> Batch:
    kept = torch.ones(len(EXPERTS))
    kept[[EXPERTS.index(name) for name in NONLOCAL]] = 0.0
    outputs = batch.images[OUTPUTS].unflatten(1, (len(EXPERTS), -1)) * kept[:, None, None, None].to(batch.target)
    return replace(batch, images={**batch.images, OUTPUTS: outputs.flatten(1, 2)})


def _disturbed(batch: Batch, rng: np.random.Generator) -> Batch:
    """Turn one patch in space and in its spectral basis, change the unit of the noise, leave experts out."""
    strength = batch.values[STRENGTH].double().cpu().numpy()[0]
    size = len(strength)
    present = int((strength > 0.02).sum())
    basis = np.diag(rng.choice([-1.0, 1.0], size))
    if rng.random() < _TURN_SHARE and present > 1:
        first = int(rng.integers(0, min(4, present - 1)))
        turn = np.eye(size)
        turn[first:present, first:present] = np.linalg.qr(rng.standard_normal((present - first, present - first)))[0]
        basis = turn @ basis
    unit = float(np.exp(rng.normal(0.0, _NOISE_UNIT)))
    kept = np.ones(size)
    if rng.random() < _FEWER_SHARE:
        kept[int(rng.integers(_FEWEST_COMPONENTS, size + 1)) :] = 0.0
    matrix = unit * kept[:, None] * basis
    deviation = kept * unit * np.sqrt((basis**2) @ np.expm1(strength) ** 2)
    experts = (rng.random(len(EXPERTS)) > _DROPPED).astype(np.float32)
    if rng.random() < _WITHOUT_NONLOCAL:
        experts[[EXPERTS.index(name) for name in NONLOCAL]] = 0.0
    turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
    m = torch.as_tensor(matrix, dtype=torch.float32, device=batch.target.device)
    weight = torch.as_tensor(experts, device=m.device)

    def orient(x: Tensor) -> Tensor:
        turned = torch.rot90(x, turns, (-2, -1))
        return (turned.flip(-1) if flip else turned).contiguous()

    outputs = batch.images[OUTPUTS].float().unflatten(1, (len(EXPERTS), -1))
    outputs = torch.einsum("lk,njkhw,j->njlhw", m, orient(outputs), weight)
    inverse = torch.as_tensor(kept[:, None] * basis / unit, dtype=torch.float32, device=m.device)
    return Batch(
        batch.hsi, batch.msi, mix(m, orient(batch.target)), orient(batch.valid),
        {OUTPUTS: outputs.flatten(1, 2), STATE: mix(m, orient(batch.images[STATE].float()))},
        {
            STRENGTH: torch.as_tensor(np.log1p(deviation), dtype=torch.float32, device=m.device)[None],
            METRIC: inverse @ batch.values[METRIC] @ inverse.T,
            CAP: batch.values[CAP],
        },
    )  # fmt: skip
