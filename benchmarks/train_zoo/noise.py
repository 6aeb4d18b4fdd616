"""Train the network that tells noise from texture in a guide (see hsfuse.fusion.guide_noise).

    python benchmarks/train_zoo/noise.py --data ../shared/data --output hsfuse/fusion/guide_noise.npz

Clean images are what Sentinel-2's and random responses see of the cubes of the training sites of ``sites.toml``, a
measured image and generated scenes. They are cut, reduced and smoothed to many sizes and textures, some laid side by
side as the parts of a large scene are, and get white noise of known strength. The validation sites are scored at the
end, at their own size.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quality_scenes import read_cube, sentinel2_responses

from hsfuse.band_selection.windows import window_of
from hsfuse.fusion.guide_noise import LEAST_WINDOWS, GuideSample, noise_features
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL, table_responses
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import FWHM_TO_SIGMA, BandTable, srf_weights

FloatImage = NDArray[np.float64]
SITES = Path(__file__).resolve().parents[1] / "sites.toml"
LEAST_SIDE_PX, HALVED_FROM_PX = 24, 60
SIZES_PX = (36, 48, 60, 80, 100, 144, 192)
GENERATED_FROM = 500
"""Seed of the first generated scene: none that tests know."""
BANDS = (1, 2, 3, 4, 4, 4, 4, 6)
SNR_DB, SNR_SPREAD_DB = (28.0, 60.0), 1.5
VALIDATION_SNR_DB = (30.0, 35.0, 40.0, 45.0, 60.0)
HIDDEN, STEPS, BATCH, RATE, JITTER = 32, 4000, 1024, 3e-3, 0.1
UNDERSTATED = 3.0
"""Weight of noise that is understated: a guide cleaned of 1.25 times its noise is as good as one cleaned of just that,
with half of it a third of what cleaning brings is lost (NLB on the validation sites)."""
HALVED_SHARE, SMOOTHED_SHARE, SMOOTH_PX = 0.25, 0.15, (0.5, 12.0)
"""Sharper texture than any of the images has, and next to none."""
MOSAIC_SHARE, MOST_PARTS = 0.25, 3
"""Samples that are made of several images: quiet and textured parts of one scene."""
PERMUTED_SHARE = 0.3
"""Samples with only some of the bands."""


def clean_images(data: Path, split: str, draws: int, rng: np.random.Generator) -> Iterator[tuple[str, FloatImage]]:
    """Images of every cube: by Sentinel-2's responses of 10 m first, then by random ones."""
    table, sentinel2 = tomllib.loads(SITES.read_text()), sentinel2_responses(data)
    for names in table[split].values():
        for name in names:
            cube, bands = read_cube(data / "cubes" / f"{name}.npz")
            clear = [k for k, nm in enumerate(bands.centre_nm) if window_of(float(nm)) is None]
            cube, bands = np.maximum(cube[clear], 0.0), bands.take(clear)
            if min(cube.shape[1:]) < LEAST_SIDE_PX:
                continue
            weights = srf_weights(bands, sentinel2)
            yield name, np.tensordot(weights[weights.sum(axis=1) > 0], cube, axes=1)
            for _ in range(draws):
                yield name, np.tensordot(random_responses(bands, rng), cube, axes=1)


def random_responses(bands: BandTable, rng: np.random.Generator) -> FloatImage:
    """Weights (msi band, band) of random Gaussian responses, most of them below 1 um as Sentinel-2's are."""
    count, low, high = int(rng.choice(BANDS)), bands.centre_nm.min(), bands.centre_nm.max()
    centre = rng.uniform(low, min(high, 1000.0) if rng.random() < 0.6 else high, count)
    sigma = np.exp(rng.uniform(np.log(15.0), np.log(150.0), count)) * FWHM_TO_SIGMA
    weights = np.exp(-0.5 * ((bands.centre_nm - centre[:, None]) / sigma[:, None]) ** 2) + 1e-12
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def measured_image(data: Path) -> list[FloatImage]:
    """Four quarters of the Sentinel-2 image."""
    with rasterio.open(data / "sentinel2" / "s2_l2a_10m_4band_300x300.tif") as source:
        image = source.read().astype(np.float64) * 1e-4
    rows, cols = (size // 2 for size in image.shape[1:])
    return [image[:, top : top + rows, left : left + cols] for top in (0, rows) for left in (0, cols)]


def generated_images(count: int) -> Iterator[tuple[str, FloatImage]]:
    """Scenes of simulated fields and towns by Sentinel-2's responses."""
    four, ten = (list(table_responses("Sentinel-2A", bands)) for bands in (BANDS_10M, BANDS_ALL))
    for number in range(count):
        scene = training_scene(GENERATED_FROM + number, SIZES_PX[-1])
        image = scene.response(ten if number % 4 == 0 else four, scene.grid.full)
        yield f"generated {number}", np.asarray(image, np.float64)


def windows_of(image: FloatImage, noise: FloatImage, rng: np.random.Generator) -> NDArray[np.float32]:
    noisy = image + noise[:, None, None] * rng.standard_normal(image.shape)
    return GuideSample.take(noisy, np.ones(image.shape[1:], bool)).windows


def varied(image: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Cut an image, and perhaps halve or smooth it."""
    kind = rng.random()
    if kind < HALVED_SHARE and min(image.shape[1:]) >= HALVED_FROM_PX:
        rows, cols = (size // 2 for size in image.shape[1:])
        image = image[:, : 2 * rows, : 2 * cols].reshape(len(image), rows, 2, cols, 2).mean(axis=(2, 4))
    elif kind > 1.0 - SMOOTHED_SHARE:
        image = np.stack([gaussian_filter(band, rng.uniform(*SMOOTH_PX)) for band in image])
    side = [min(int(rng.choice(SIZES_PX)), size) for size in image.shape[1:]]
    row, col = (int(rng.integers(size - part + 1)) for size, part in zip(image.shape[1:], side, strict=True))
    return image[:, row : row + side[0], col : col + side[1]]


def sample(images: dict[str, list[FloatImage]], rng: np.random.Generator) -> tuple[FloatImage, FloatImage] | None:
    """Features of a noisy image or mosaic, and what the network shall answer, both by band."""
    names = list(images)
    many = rng.random() < MOSAIC_SHARE
    chosen = images[names[rng.integers(len(names))]]
    first = varied(chosen[0] if many else chosen[int(rng.integers(len(chosen)))], rng)
    parts = [first]
    if many:
        # The same responses everywhere: the first image of every cube.
        others = [group[0] for group in images.values() if len(group[0]) == len(first)]
        for _ in range(int(rng.integers(1, MOST_PARTS))):
            other = varied(others[int(rng.integers(len(others)))], rng)
            level = first.mean(axis=(1, 2)) / np.maximum(other.mean(axis=(1, 2)), 1e-6)
            parts.append(other * (level * rng.uniform(0.5, 1.5))[:, None, None])
    if rng.random() < PERMUTED_SHARE:
        kept = rng.permutation(len(first))[: int(rng.integers(1, len(first) + 1))]
        parts = [part[kept] for part in parts]
    power = np.mean([(part**2).mean(axis=(1, 2)) for part in parts], axis=0)
    snr_db = rng.uniform(*SNR_DB) + rng.normal(0.0, SNR_SPREAD_DB, len(power))
    noise = np.sqrt(power) * 10.0 ** (-snr_db / 20.0) + 1e-7
    windows = np.concatenate([windows_of(part, noise, rng) for part in parts])
    if len(windows) < LEAST_WINDOWS:
        return None
    features, reference = noise_features(windows)
    return features, np.log(noise) - reference


def fitted(samples: list[tuple[FloatImage, FloatImage]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Train on all bands of all samples, each sample with the same weight."""
    torch.manual_seed(seed)
    features, answers = (np.concatenate([each[i] for each in samples]) for i in (0, 1))
    weight = np.concatenate([np.full(len(each), 1.0 / len(each)) for _, each in samples])
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = torch.from_numpy(((features - mean) / spread).astype(np.float32)).clamp(-4.0, 4.0)
    y, w = (torch.from_numpy(v.astype(np.float32)) for v in (answers, weight / weight.mean()))
    network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1.0 + np.cos(np.pi * step / STEPS))
        pick = torch.randint(len(x), (BATCH,))
        off = network(x[pick] + JITTER * torch.randn(BATCH, x.shape[1]))[:, 0]
        loss = nn.functional.smooth_l1_loss(off, y[pick], beta=0.1, reduction="none") * w[pick]
        loss = torch.where(off < y[pick], UNDERSTATED, 1.0) * loss
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    values = {"mean": mean, "spread": spread, "weight1": network[0].weight, "bias1": network[0].bias,
              "weight2": network[2].weight, "bias2": network[2].bias}  # fmt: skip
    return {k: np.asarray(torch.as_tensor(v).detach(), np.float32) for k, v in values.items()}


def scored(net: dict[str, NDArray[np.float32]], data: Path, draws: int, seed: int) -> Iterator[str]:
    """Noise found over noise added on the validation sites."""
    rng = np.random.default_rng(seed)
    images = list(clean_images(data, "validation", draws, rng))
    for snr_db in VALIDATION_SNR_DB:
        off = []
        for _, image in images:
            noise = np.sqrt((image**2).mean(axis=(1, 2))) * 10.0 ** (-snr_db / 20.0)
            windows = windows_of(image, noise, rng)
            if len(windows) < LEAST_WINDOWS:
                continue
            features, reference = noise_features(windows)
            x = np.clip((features - net["mean"]) / net["spread"], -4.0, 4.0)
            hidden = x @ net["weight1"].T + net["bias1"]
            answer = (hidden / (1.0 + np.exp(-hidden))) @ net["weight2"].T + net["bias2"]
            off.append(reference + answer[:, 0] - np.log(noise))
        errors = np.concatenate(off)
        shares = np.exp(np.quantile(errors, (0.05, 0.25, 0.5, 0.75, 0.95))).round(2)
        yield f"{snr_db:g} dB: found / true at 5, 25, 50, 75, 95 % {shares}, mean |log| {np.abs(errors).mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with cubes/, sentinel2/ and srf/")
    parser.add_argument("--draws", type=int, default=20, help="random responses of every cube")
    parser.add_argument("--generated", type=int, default=10, help="generated scenes, each drawn as often as a cube")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    images: dict[str, list[FloatImage]] = {}
    for name, image in clean_images(given.data, "train", given.draws, rng):
        images.setdefault(name, []).append(image)
    for number, image in enumerate(measured_image(given.data)):
        images[f"sentinel2, {number}"] = [image]
    images |= {name: [image] for name, image in generated_images(given.generated)}
    kept: list[tuple[FloatImage, FloatImage]] = []
    while len(kept) < given.samples:
        found = sample(images, rng)
        kept += [] if found is None else [found]
    print(f"{len(kept)} samples of {sum(len(group) for group in images.values())} images", flush=True)
    net = fitted(kept, given.seed)
    np.savez(given.output, **net)
    print("\n".join(scored(net, given.data, 3, given.seed)))


if __name__ == "__main__":
    main()
