"""Train the network that tells noise from texture in a guide (see hsfuse.fusion.guide_noise).

    python benchmarks/train_zoo/noise.py --data CUBES --structure IMAGES --output hsfuse/fusion/guide_noise.npz

Clean images as in denoiser.py, cut and reduced to many sizes, get white noise of known strength. Give the same cubes
as to train.py, without the held-out ones; these are scored at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from denoiser import Image, clean_images, halved
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn
from train import find_cubes

from hsfuse.fusion.guide_noise import GuideSample, noise_features

Sample = tuple[NDArray[np.float64], NDArray[np.float64]]
SIZES_PX = (60, 80, 100, 140, 192)
SNR_DB = (28.0, 58.0)
HIDDEN, STEPS, RATE, JITTER = 24, 2000, 3e-3, 0.1
REDUCED_SHARE, SMOOTH_SHARE, SMOOTH_PX = 0.3, 0.12, 5.0
"""Sharper texture than any of the images has, and none at all."""
LEAST_WINDOWS = 100


def noisy_features(image: Image, rng: np.random.Generator) -> Sample | None:
    """Features of a noisy part of an image, and what the network shall answer, both by band."""
    kind = rng.random()
    if kind < REDUCED_SHARE:
        image = halved(image)
    elif kind < REDUCED_SHARE + SMOOTH_SHARE:
        image = np.stack([gaussian_filter(band, SMOOTH_PX) for band in image])
    side = [min(int(rng.choice(SIZES_PX)), size) for size in image.shape[1:]]
    row, col = (int(rng.integers(size - part + 1)) for size, part in zip(image.shape[1:], side, strict=True))
    part = image[:, row : row + side[0], col : col + side[1]].astype(np.float64)
    if rng.random() < 0.3:
        part = part[rng.permutation(len(part))[: rng.integers(1, len(part))]]
    snr_db = rng.uniform(*SNR_DB) + rng.normal(0.0, 1.5, len(part))
    noise = np.sqrt((part**2).mean(axis=(1, 2))) * 10.0 ** (-snr_db / 20.0) + 1e-7
    noisy = part + noise[:, None, None] * rng.normal(size=part.shape)
    windows = GuideSample.take(noisy, np.ones(noisy.shape[1:], bool)).windows
    if len(windows) < LEAST_WINDOWS:
        return None
    features, reference = noise_features(windows)
    return features, np.log(noise) - reference


def examples(images: list[Image], count: int, rng: np.random.Generator) -> Sample:
    found = [noisy_features(images[int(rng.integers(len(images)))], rng) for _ in range(count)]
    kept = [sample for sample in found if sample is not None]
    return np.concatenate([f for f, _ in kept]), np.concatenate([t for _, t in kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="cubes, or folders with cubes")
    parser.add_argument("--hold-out", nargs="*", default=[], help="cubes with these words in their name only score")
    parser.add_argument("--structure", type=Path, help="image or folder of images (GeoTIFF)")
    parser.add_argument("--generated", type=int, default=40)
    parser.add_argument("--remixed", type=int, default=12)
    parser.add_argument("--samples", type=int, default=600, help="of measured and of drawn images each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    cubes = find_cubes(given.data)
    held = [cube for cube in cubes if any(word in cube.stem for word in given.hold_out)]
    measured, drawn = clean_images([c for c in cubes if c not in held], given.generated, given.remixed, given.structure)
    kinds = [examples(images, given.samples, rng) for images in (measured, drawn) if images]
    features, answers = (np.concatenate([kind[i] for kind in kinds]) for i in (0, 1))
    weight = np.concatenate([np.full(len(kind[1]), 1.0 / len(kind[1])) for kind in kinds])
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = torch.from_numpy(((features - mean) / spread).astype(np.float32)).clamp(-4.0, 4.0)
    y = torch.from_numpy(answers.astype(np.float32))
    w = torch.from_numpy((weight / weight.mean()).astype(np.float32))
    network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1.0 + np.cos(np.pi * step / STEPS))
        off = network(x + JITTER * torch.randn_like(x))[:, 0]
        loss = (nn.functional.smooth_l1_loss(off, y, beta=0.1, reduction="none") * w).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = {"mean": mean, "spread": spread, "weight1": network[0].weight, "bias1": network[0].bias,
              "weight2": network[2].weight, "bias2": network[2].bias}  # fmt: skip
    np.savez(given.output, **{k: np.asarray(torch.as_tensor(v).detach(), np.float32) for k, v in values.items()})
    if held:
        images, _ = clean_images(held, 0, 0, None)
        features, answers = examples(images, given.samples // 4, rng)
        with torch.no_grad():
            found = network(torch.from_numpy(((features - mean) / spread).astype(np.float32)).clamp(-4.0, 4.0))
        off = np.exp(found[:, 0].numpy() - answers)
        shares = np.quantile(off, (0.05, 0.25, 0.5, 0.75, 0.95)).round(2)
        print(f"held out: noise found / true, 5, 25, 50, 75, 95 %: {shares}")


if __name__ == "__main__":
    main()
