"""Train the refinement of a corrected guide (hsfuse.fusion.change.season) on generated seasons of training sites.

python benchmarks/fit_season.py --data ../shared/data --out hsfuse/fusion/change/season.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fit_networks import step_down, surveyed, weights_of
from numpy.typing import NDArray
from quality_scenes import ReferenceScene
from scipy.ndimage import gaussian_filter1d
from season_changes import random_guide
from season_scenes import other_sensor, training_scenes

from hsfuse.fusion.change.evidence import gather_evidence
from hsfuse.fusion.change.season import DILATIONS, SeasonData, SeasonFrame, convolved
from hsfuse.simulate.wald import CONDITIONS, Condition, reduce_scene

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LEAST_SIDE_PX = 48
"""Of a pair, fine pixels: parts of so many are looked at."""
PAIRS = 120
"""Of each cube; one in four or so is not corrected, and tells nothing."""
OTHER_SENSOR = 0.3
RATIOS, RATIOS_OFTEN = (2, 3, 4, 6), (0.1, 0.7, 0.15, 0.05)
TURNED = 0.3
"""From which a pixel counts as turned."""
HIDDEN, BATCH, RATE, DECAY, WARM, SEED = 16, 16, 3e-3, 1e-3, 50, 0
RESOLVED_PX, RESOLVED_WEIGHT = 0.3, 0.1
"""What the HSI resolves of an error, a Gaussian window of so many HSI pixels, every fusion takes from the HSI anyhow:
it counts so much beside what is finer."""
FLOOR = 2.0
"""Mean square error that counts as none, in variances of the noise."""
LEAST_PIXELS = 4
"""Of turned or other ground for it to count."""
LITTLE, AROUND_LITTLE = 0.1, 0.85
"""Where less of a pair has turned, most of its parts hold some of it."""
INDICES, LACKED, OTHERS, FACTS = (3, 4, 11), 12, (5, 6), (7, 8, 9, 10)
"""Numbers of features that are varied."""
FIRST_CANDIDATE = 17
"""Number of the first feature that is what a candidate would change."""


@dataclass(frozen=True)
class Sample:
    """A pair; images of shape (row, col).

    Attributes
    ----------
    features
        Shape (feature, row, col).
    wanted
        What is missing along the direction, in its steps.
    turned, same
        Ground that turned, and other ground of which the guide shows the same as the HSI.
    size, ratio
        Of the correction, in standard deviations of the noise; of the grids.
    """

    features: NDArray[np.float16]
    wanted: FloatCube
    turned: BoolArray
    same: BoolArray
    size: float
    ratio: int


def condition(rng: np.random.Generator) -> Condition:
    """Noise and blur of both images."""
    kind = rng.random()
    if kind < 0.5:
        return CONDITIONS["35dB"]
    if kind < 0.7:
        return CONDITIONS["field"]
    return Condition(
        rng.uniform(30.0, 42.0), rng.uniform(33.0, 46.0), rng.uniform(0.95, 1.1), rng.uniform(0.0, 0.15), 0.02, 0.005
    )


def sample(scene: ReferenceScene, rng: np.random.Generator) -> Sample | None:
    """Make a pair; None where its guide is not corrected, or small."""
    seen_by = other_sensor(scene, rng) if rng.random() < OTHER_SENSOR else None
    used = scene if seen_by is None else seen_by
    guide, turned, foreign = random_guide(used.msi, rng, plants=seen_by is None)
    ratio = int(rng.choice(RATIOS, p=RATIOS_OFTEN))
    pair = reduce_scene(
        used.cube, guide, ratio, condition(rng), name=used.name, seed=int(rng.integers(1 << 30))
    )  # fmt: skip
    rows, cols = pair.msi.shape[1:]
    if min(rows, cols) < LEAST_SIDE_PX:
        return None
    survey, response = surveyed(used, pair, ratio)
    asked: list[SeasonData] = []

    def keep(data: SeasonData, _: int) -> FloatCube:
        asked.append(data)
        return data.guide

    gather_evidence(survey.pair, survey.msi, response, refine=keep)
    if not asked:
        return None
    data = asked[0]
    frame = SeasonFrame.of(data)
    truth = used.msi[:, :rows, :cols].astype(np.float64)
    # In the scale that both images were related in.
    for band, low, seen in zip(truth, data.response.down(truth), data.seen, strict=True):
        band[:] = np.polyval(np.polyfit(low.ravel(), seen.ravel(), 1), band)
    turned, foreign = turned[:rows, :cols] > TURNED, foreign[:rows, :cols]
    features = frame.features(data, (slice(0, rows // ratio), slice(0, cols // ratio)))
    return Sample(
        features.astype(np.float16), np.tensordot(frame.along, truth - data.guide, axes=1).astype(np.float32),
        turned & ~foreign, ~turned & ~foreign, frame.size, ratio,
    )  # fmt: skip


def samples(scene: ReferenceScene, count: int) -> list[Sample]:
    """Make the pairs of a cube."""
    torch.set_num_threads(1)
    made = (sample(scene, np.random.default_rng([SEED, *scene.name.encode(), number])) for number in range(count))
    return [one for one in made if one is not None]


class Network(torch.nn.Module):
    """As :mod:`hsfuse.fusion.change.season` asks it."""

    def __init__(self, features: int, candidates: int) -> None:
        super().__init__()
        layers = {"first": torch.nn.Conv2d(features, HIDDEN, 3)}
        for number, _ in enumerate(DILATIONS, 1):
            layers[f"residual_{number}"] = torch.nn.Conv2d(HIDDEN, HIDDEN, 3)
        layers["answer"] = torch.nn.Conv2d(HIDDEN, candidates + 2, 1)
        torch.nn.init.zeros_(layers["answer"].weight)
        with torch.no_grad():
            # From the guide as it is.
            layers["answer"].bias[1] = 2.0
        self.layers = torch.nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (n, feature, row, col) make (n, row, col)."""
        return convolved(weights_of(self.layers), x)


def part(pair: Sample, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Cut a part of a pair, turned and mirrored at random: features, what is wanted, and both masks."""
    rows, cols = pair.wanted.shape
    side = LEAST_SIDE_PX
    top, left = int(rng.integers(rows - side + 1)), int(rng.integers(cols - side + 1))
    if 0.0 < pair.turned.mean() < LITTLE and rng.random() < AROUND_LITTLE:
        places = np.argwhere(pair.turned)
        row, col = places[rng.integers(len(places))] - rng.integers(8, side - 8, 2)
        top, left = int(np.clip(row, 0, rows - side)), int(np.clip(col, 0, cols - side))
    where = (..., slice(top, top + side), slice(left, left + side))
    quarter, mirrored = int(rng.integers(4)), rng.random() < 0.5
    images = []
    for image in (pair.features, pair.wanted, pair.turned, pair.same):
        turned = np.rot90(image[where], quarter, axes=(-2, -1))
        images.append(torch.from_numpy((turned[..., ::-1] if mirrored else turned).astype(np.float32)))
    varied(images[0], rng)
    return tuple(images)


def varied(features: torch.Tensor, rng: np.random.Generator) -> None:
    """Vary, in place, what tells one scene from another: sites are few."""
    scale, shift = float(np.exp(rng.normal(0.0, 0.15))), rng.normal(0.0, 0.25)
    for number in INDICES:
        features[number] = features[number] * scale + shift
    features[LACKED] *= scale
    for number in OTHERS:
        if rng.random() < 0.6:
            factor = rng.choice([-1.0, 1.0]) * np.exp(rng.normal(0.0, 0.3))
            features[number] = features[number] * factor + rng.normal(0.0, 0.3)
        else:
            features[number] = 0.0
    for number in FACTS:
        features[number] += rng.normal(0.0, 0.25)


def smoother(size: int, ratio: int) -> torch.Tensor:
    """Matrix of a Gaussian window along an axis."""
    return torch.from_numpy(gaussian_filter1d(np.eye(size), RESOLVED_PX * ratio, axis=0, mode="reflect")).float()


def loss(
    answer: torch.Tensor, wanted: torch.Tensor, masks: Sequence[torch.Tensor], size: torch.Tensor, smooth: torch.Tensor
) -> torch.Tensor:
    """Logarithm of the error over that of the guide as it came, of turned and of other ground.

    Images are of shape (n, row, col), ``size`` and ``smooth`` one number and one matrix for each.
    """
    known = (masks[0] + masks[1]) * size[:, None, None]

    def square(x: torch.Tensor) -> torch.Tensor:
        return (x - smooth @ x @ smooth.transpose(1, 2)) ** 2 + RESOLVED_WEIGHT * x**2

    after, before = (square(x * known) for x in (wanted - answer, wanted))
    total = torch.zeros(())
    for mask in masks:
        count = mask.sum(dim=(1, 2))
        enough = count >= LEAST_PIXELS
        if enough.any():
            left, was = ((x * mask).sum(dim=(1, 2))[enough] / count[enough] + FLOOR for x in (after, before))
            total = total + torch.log(left / was).mean()
    return total


def train(sites: Sequence[Sequence[Sample]], steps: int) -> dict[str, np.ndarray]:
    """Train on the pairs of several sites; a site with four times as many counts twice."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    often = np.sqrt([len(site) for site in sites])
    often /= often.sum()
    features = len(sites[0][0].features)
    model = Network(features, features - FIRST_CANDIDATE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / WARM) * 0.5 * (1.0 + np.cos(np.pi * step / steps))
    )
    for step in range(steps):
        pairs = []
        for _ in range(BATCH):
            site = sites[int(rng.choice(len(sites), p=often))]
            pairs.append(site[int(rng.integers(len(site)))])
        x, wanted, turned, same = (torch.stack(images) for images in zip(*(part(p, rng) for p in pairs), strict=True))
        size = torch.tensor([pair.size for pair in pairs])
        smooth = torch.stack([smoother(LEAST_SIDE_PX, pair.ratio) for pair in pairs])
        total = loss(model(x.to(memory_format=torch.channels_last)), wanted, (turned, same), size, smooth)
        step_down(total, model, optimizer, schedule)
        if step % 100 == 0:
            print(step, round(total.item(), 3), flush=True)
    return {name: value.detach().numpy() for name, value in weights_of(model.layers).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cubes", nargs="*", default=[], help="only cubes whose name contains one of these")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each cube")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sites: dict[str, list[Sample]] = {}
    scenes = training_scenes(args.data, args.cubes, LEAST_SIDE_PX)
    with ProcessPoolExecutor(args.threads) as pool:
        for (site, scene), found in zip(
            scenes, pool.map(samples, [scene for _, scene in scenes], [args.pairs] * len(scenes)), strict=True
        ):
            sites.setdefault(site, []).extend(found)
            print(scene.name, len(found), flush=True)
    torch.set_num_threads(args.threads)
    np.savez(args.out, **train([site for site in sites.values() if site], args.steps))


if __name__ == "__main__":
    main()
