"""Train the decision about pixels near a change (hsfuse.fusion.change.decision) on simulated changes of training sites.

The pairs take about eight minutes, the training as long; the pairs are held in memory, 3 GB.

python benchmarks/fit_decision.py --data ../shared/data --out hsfuse/fusion/change/decision.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fit_networks import step_down, surveyed, weights_of
from pair_changes import changed_guide
from quality_scenes import ReferenceScene
from real_pairs import RATIO, SHARP, make_pair, split_scenes
from scipy.ndimage import find_objects

from hsfuse.fusion.change.decision import LARGEST_FEATURE, RESIDUAL_LAYERS, convolved, decision_features
from hsfuse.fusion.change.evidence import gather_evidence
from hsfuse.fusion.change.illumination import common_light
from hsfuse.fusion.change.matting import NEAR_PX, grown, neighbour_contrast
from hsfuse.fusion.change.repair import decision_data
from hsfuse.masks import expand

LEFT_OUT = ("emit_jpl_10x10",)
"""Too small to tell anything from."""
FEW = (
    *(("35dB", "parcels", seed) for seed in range(20, 25)), *(("35dB", "cloud", seed) for seed in range(20, 26)),
    *(("35dB", "shadow", seed) for seed in range(20, 23)), *(("35dB", "mix", seed) for seed in range(20, 23)),
    ("35dB", "season", 20), ("field", "none", 20), ("field", "parcels", 20), ("field", "parcels", 21),
    ("field", "cloud", 20), ("field", "mix", 20),
)  # fmt: skip
PAIRS = (
    *((setting, change, seed + more) for more in (0, 100, 200, 300) for setting, change, seed in FEW),
    *(("35dB", "mix", seed) for seed in range(520, 532)), *(("field", "mix", seed) for seed in range(520, 526)),
    ("35dB", "season", 520), ("35dB", "season", 521), ("real", "none", 620), ("real", "parcels", 620),
    ("real", "parcels", 621), ("real", "cloud", 620), ("real", "cloud", 621), ("real", "shadow", 620),
    ("real", "mix", 620), ("real", "mix", 621),
)  # fmt: skip
"""Setting, change and seed."""
FUSED_SHARE = 1.0 / 25.0
"""Squared error of a fusion relative to that of interpolation: what error added outside of a change is measured by."""
HIDDEN, BATCH, RATE, DECAY, SEED = 40, 8, 2e-3, 1e-3, 1
INSIDE, HARM, HARM_FROM_DB, OUTSIDE, ENTROPY = 0.7, 8.0, 0.0, 3.0, 2.0
"""Weights of the error inside, of what of it exceeds that of what the HSI says by so many decibels, of the error
outside, and of the probability."""
EVERY = 7
"""Of so many pixels one tells the features' mean and spread."""
_LEAST_PIXELS = 20


@dataclass(frozen=True)
class Sample:
    """The part of a pair that holds its candidates; features of shape (feature, row, col), 0 far from them.

    Images are of shape (msi band, pixel), the pixels those near the candidates, in units of each MSI band's spread.
    """

    features: torch.Tensor
    near: torch.Tensor
    guide: torch.Tensor
    lit: torch.Tensor
    expected: torch.Tensor
    wanted: torch.Tensor
    changed: torch.Tensor
    sharp: bool
    missed: float
    allowed: float

    def inputs(self, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        """As :func:`hsfuse.fusion.change.decision.decide` shows them to the network."""
        scaled = (self.features.float() - mean[:, None, None]) / spread[:, None, None]
        return torch.cat([scaled.clamp(-LARGEST_FEATURE, LARGEST_FEATURE) * self.near, self.near[None].float()])


class Network(torch.nn.Module):
    """As :mod:`hsfuse.fusion.change.decision` asks it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        layers = {"first": torch.nn.Conv2d(features + 1, HIDDEN, 1)}
        for name in RESIDUAL_LAYERS:
            layers[name] = torch.nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
            with torch.no_grad():
                layers[name].weight *= 0.5
        layers |= {"last": torch.nn.Conv2d(HIDDEN, HIDDEN, 1), "answer": torch.nn.Conv2d(HIDDEN, 4, 1)}
        self.layers = torch.nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (feature, row, col) make (answer, row, col)."""
        return convolved(weights_of(self.layers), x)


def sample(scene: ReferenceScene, setting: str, change: str, seed: int) -> Sample | None:
    """Everything about a pair that the training needs; None where it has no candidates."""
    pair, mask = make_pair(scene, setting, change, seed)
    survey, response = surveyed(scene, pair, RATIO)
    evidence, guide = gather_evidence(survey.pair, survey.msi, response)
    candidates, power = evidence.contradiction.candidates, evidence.contradiction.power
    if not candidates.any():
        return None
    contrast = float(np.median(neighbour_contrast(guide[:, ::7], power)))
    rows, cols = mask.shape
    everything = (slice(0, rows // RATIO), slice(0, cols // RATIO))
    light = common_light(evidence.relation.seen, evidence.blurred, evidence.contradiction)
    data = decision_data(evidence, guide.astype(np.float64), everything, response, contrast, light)
    near = expand(grown(candidates, NEAR_PX), RATIO)
    truth = scene.msi[:, :rows, :cols].astype(np.float64)
    touched = mask if change in SHARP else np.zeros_like(mask)
    mask = touched
    if change in SHARP and change != "mix":
        shown, _ = changed_guide(scene.msi, change, seed)
        touched = (np.abs(shown - scene.msi).max(axis=0) > 0)[:rows, :cols]
    if evidence.shadows is not None:
        # What was brought out of a shadow is repaired.
        left = evidence.shadows.share == 0
        touched, mask = touched & left, mask & left
    wanted = np.where(touched, truth, data.guide)
    spread = np.sqrt(power)[:, None, None]

    def taken(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((image / spread)[:, near].astype(np.float16))

    box = find_objects(near.astype(np.int8))[0]
    known = near[box]
    found_features = decision_features(data, near, response)
    features = np.zeros((len(found_features), *known.shape), np.float16)
    features[:, known] = found_features

    interpolated = float((((response.up(data.seen) - truth) / spread) ** 2).mean())
    missed = float((((data.guide - wanted) / spread) ** 2).mean(axis=0)[mask & ~near].sum())
    return Sample(
        torch.from_numpy(features), torch.from_numpy(known), taken(data.guide), taken(data.lit), taken(data.expected),
        taken(wanted), torch.from_numpy(mask[near].astype(np.float32)), change in SHARP, missed,
        int((~mask).sum()) * interpolated * FUSED_SHARE,
    )  # fmt: skip


def loss(answer: torch.Tensor, pair: Sample) -> torch.Tensor:
    """Error inside over that of what the HSI says and what is added outside, dB, and the entropy of the probability.

    ``answer`` is that of the pixels near the candidates, shape (answer, pixel).
    """
    guide, lit, expected, wanted = (image.float() for image in (pair.guide, pair.lit, pair.expected, pair.wanted))
    share = torch.softmax(answer[:3], dim=0)
    repaired = share[0] * guide + share[1] * lit + share[2] * expected
    square = ((repaired - wanted) ** 2).mean(dim=0)
    outside = 10.0 * torch.log10(1.0 + (square * (1.0 - pair.changed)).sum() / pair.allowed)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(answer[3], pair.changed)
    if not pair.sharp:
        return OUTSIDE * outside + ENTROPY * entropy
    interpolated = (((expected - wanted) ** 2).mean(dim=0) * pair.changed).sum() + 1e-6
    inside = 10.0 * torch.log10(((square * pair.changed).sum() + pair.missed) / interpolated + 0.03)
    inside = INSIDE * inside + HARM * torch.relu(inside - HARM_FROM_DB)
    return inside + OUTSIDE * outside + ENTROPY * entropy


def mirrored(image: torch.Tensor, axes: Sequence[int], *, turned: bool) -> torch.Tensor:
    """Mirror an image along some of its last two axes, and turn it over its diagonal."""
    image = torch.flip(image, list(axes))
    return image.transpose(-1, -2) if turned else image


def train(parts: Sequence[Sequence[Sample]], steps: int) -> dict[str, np.ndarray]:
    """Train on the pairs of several sites; every site counts alike."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    joined = torch.cat([pair.features[:, pair.near][:, ::EVERY].float() for site in parts for pair in site], dim=1)
    mean, spread = joined.mean(dim=1), joined.std(dim=1) + 1e-6
    model = Network(len(mean))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        total = torch.zeros(())
        for _ in range(BATCH):
            site = parts[int(rng.integers(len(parts)))]
            pair = site[int(rng.integers(len(site)))]
            axes, turned = [axis for axis in (-2, -1) if rng.random() < 0.5], bool(rng.random() < 0.5)
            answer = model(mirrored(pair.inputs(mean, spread), axes, turned=turned))
            answer = mirrored(answer.transpose(-1, -2) if turned else answer, axes, turned=False)
            total = total + loss(answer[:, pair.near], pair) / BATCH
        step_down(total, model, optimizer, schedule)
        if step % 100 == 0:
            print(step, round(total.item(), 3), flush=True)
    stored = {"mean": mean, "spread": spread} | weights_of(model.layers)
    return {name: value.detach().numpy() for name, value in stored.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cubes", nargs="*", default=[], help="only cubes whose name contains one of these")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sites: dict[str, list[Sample]] = {}
    for site, scene in split_scenes("train", args.data, args.cubes):
        if scene.name in LEFT_OUT:
            continue
        found = [sample(scene, *pair) for pair in PAIRS]
        usable = [pair for pair in found if pair is not None and pair.guide.shape[1] >= _LEAST_PIXELS]
        if usable:
            sites.setdefault(site, []).extend(usable)
        print(scene.name, len(usable), flush=True)
    np.savez(args.out, **train(list(sites.values()), args.steps))


if __name__ == "__main__":
    main()
