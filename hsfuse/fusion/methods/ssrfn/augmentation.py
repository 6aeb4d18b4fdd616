"""What windows of a gate's training go through: some of their bands, and a spectral basis of their own each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hsfuse.fusion.experts.bank import BEST_ONLY, EXPERTS
from hsfuse.fusion.mixing import mix
from hsfuse.training.pairs import Batch, ReducedPair

OUTPUTS, STATE, WEIGHT = "expert_outputs", "state", "weight"
STRENGTH, METRIC, CAP, DISPLACED = "log_strength", "metric", "cap", "displaced"
_FEWEST, _MOST_BANDS = 20, 160
_BLIND_SHARE = 0.5
"""Pairs whose MSI responses are not told."""
_TURN_SHARE, _FEWER_SHARE, _FEWEST_COMPONENTS = 0.5, 0.3, 5
_STANDARD_SHARE, _DROPPED = 0.3, 0.1
_NOISE_UNIT = 0.2


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


def as_standard(batch: Batch) -> Batch:
    """Let the experts of ``best`` say nothing.

    What both passes of non-local Bayes make of the loose estimate stands for the first alone.
    """
    kept = torch.ones(len(EXPERTS))
    kept[[EXPERTS.index(name) for name in BEST_ONLY]] = 0.0
    outputs = batch.images[OUTPUTS].unflatten(1, (len(EXPERTS), -1)) * kept[:, None, None, None].to(batch.target)
    return replace(batch, images={**batch.images, OUTPUTS: outputs.flatten(1, 2)})


def disturbed(batch: Batch, rng: np.random.Generator) -> Batch:
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
    if rng.random() < _STANDARD_SHARE:
        experts[[EXPERTS.index(name) for name in BEST_ONLY]] = 0.0
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
        {OUTPUTS: outputs.flatten(1, 2), STATE: mix(m, orient(batch.images[STATE].float())),
         WEIGHT: orient(batch.images[WEIGHT])},
        {
            STRENGTH: torch.as_tensor(np.log1p(deviation), dtype=torch.float32, device=m.device)[None],
            METRIC: inverse @ batch.values[METRIC] @ inverse.T,
            CAP: batch.values[CAP],
            DISPLACED: batch.values[DISPLACED],
        },
    )  # fmt: skip
