"""Train the denoiser that goes in front of the zoo's networks (see hsfuse.fusion.nets.denoiser).

    python benchmarks/train_zoo/denoiser.py --data CUBES --structure IMAGES --minutes 16 --output denoiser.safetensors

Clean images are what Sentinel-2's responses see of the cubes, of generated scenes and of new materials on measured
structure, and the measured images themselves. Each training window gets noise of 30 to 52 dB, a little different in
every band, and the denoiser is told what :mod:`hsfuse.fusion.guide_noise` finds in the noisy window: it learns how far
that can be trusted. Give the same cubes as to train.py, without the held-out ones.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from train import find_cubes

from hsfuse.config import TrainConfig
from hsfuse.degrade import apply_srf
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.nets.denoiser import GuideDenoiser
from hsfuse.progress import SilentProgress
from hsfuse.workflows.training.training_data import collect
from hsfuse.workflows.training.training_inputs import TrainingInput

Image = NDArray[np.float32]
WINDOW_PX, PATCH_PX, BATCH, POOL, STEPS_PER_POOL = 192, 48, 24, 8, 12
LEARNING_RATE, WARMUP = 2e-3, 50
SNR_DB = (30.0, 52.0)
MEASURED_SHARE = 0.6
REDUCED_SHARE = 0.3
WORST = 25.0
"""A patch's loss counts up to here: edges that are lost weigh, but one patch does not rule a step."""


def clean_images(
    cubes: list[Path], generated: int, remixed: int, structure: Path | None
) -> tuple[list[Image], list[Image]]:
    """Measured and drawn multispectral images."""
    config = TrainConfig.resolve(
        None, generated=generated, remixed=remixed, structure=str(structure) if structure else None, ratio="3", steps=1
    )
    data = collect([TrainingInput(path, ()) for path in cubes], config, None, SilentProgress())
    measured: list[Image] = []
    drawn: list[Image] = []
    for entry in data.entries:
        scene = entry.load()
        reference = torch.from_numpy(np.ascontiguousarray(scene.reference))[None]
        for srf in scene.srf[: 1 if entry.drawn else 3]:
            (drawn if entry.drawn else measured).append(apply_srf(reference, srf)[0].numpy())
    files = [] if structure is None else sorted(structure.iterdir()) if structure.is_dir() else [structure]
    for file in files:
        with rasterio.open(file) as source:
            image = source.read().astype(np.float32) * 1e-4
        half = [size // 2 for size in image.shape[1:]]
        if len(image) == len(data.msi_bands):
            measured += [image[:, : half[0], : half[1]], image[:, : half[0], half[1] :],
                         image[:, half[0] :, : half[1]], image[:, half[0] :, half[1] :]] * 2  # fmt: skip
    return measured, drawn


def halved(image: Image) -> Image:
    """Means of 2 x 2 pixels: sharper texture than any of the images has."""
    count, rows, cols = image.shape
    even = image[:, : rows // 2 * 2, : cols // 2 * 2]
    return np.asarray(even.reshape(count, rows // 2, 2, cols // 2, 2).mean(axis=(2, 4)), np.float32)


def noisy_window(images: tuple[list[Image], list[Image]], rng: np.random.Generator) -> tuple[NDArray[np.floating], ...]:
    """Clean, noisy, mean, deviation, estimated noise and true noise of a random image."""
    while True:
        choice = images[0] if images[0] and (rng.random() < MEASURED_SHARE or not images[1]) else images[1]
        image = choice[rng.integers(len(choice))]
        if min(image.shape[1:]) >= 2 * PATCH_PX and rng.random() < REDUCED_SHARE:
            image = halved(image)
        image = np.rot90(image, int(rng.integers(4)), (1, 2))[:, :WINDOW_PX, :WINDOW_PX]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = image * rng.uniform(0.6, 1.4) * rng.uniform(0.8, 1.25, (len(image), 1, 1))
        if rng.random() < 0.3:
            image = image[rng.permutation(len(image))]
        snr_db = rng.uniform(*SNR_DB) + rng.normal(0.0, 1.5, len(image))
        noise = np.sqrt((image**2).mean(axis=(1, 2))) * 10.0 ** (-snr_db / 20.0)
        noisy = (image + noise[:, None, None] * rng.normal(size=image.shape)).astype(np.float32)
        estimate = guide_noise([GuideSample.take(noisy, np.ones(noisy.shape[1:], bool))])
        if estimate is not None:
            clean = np.ascontiguousarray(image, dtype=np.float32)
            facts = (noisy.mean(axis=(1, 2)), noisy.std(axis=(1, 2)), estimate, noise)
            return clean, noisy, *(value.astype(np.float32) for value in facts)


def train(images: tuple[list[Image], list[Image]], width: int, minutes: float, seed: int) -> GuideDenoiser:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = GuideDenoiser((images[0] or images[1])[0].shape[0], width)
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start, step, shown = time.monotonic(), 0, 1.0
    pool: list[tuple[NDArray[np.floating], ...]] = []
    while (used := (time.monotonic() - start) / (60.0 * minutes)) < 1.0:
        if step % STEPS_PER_POOL == 0:
            pool = [noisy_window(images, rng) for _ in range(POOL)]
        patches = []
        for item in range(BATCH):
            clean, noisy, *facts = pool[item % POOL]
            row, col = (int(rng.integers(size - PATCH_PX + 1)) for size in clean.shape[1:])
            cut = (slice(None), slice(row, row + PATCH_PX), slice(col, col + PATCH_PX))
            patches.append((clean[cut], noisy[cut], *facts))
        clean_t, noisy_t, mean, std, estimate, noise = (
            torch.from_numpy(np.stack(parts)) for parts in zip(*patches, strict=True)
        )
        rate = LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * used))) * min(1.0, (step + 1) / WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = rate
        error = (network(noisy_t, mean, std, estimate) - clean_t) / noise[:, :, None, None]
        loss = error.square().mean(dim=(2, 3)).clamp(max=WORST).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, value in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(value, 1.0 - decay)
        shown += 0.02 * (float(loss.detach()) - shown)
        step += 1
        if step % 200 == 0:
            print(f"step {step}: {shown:.3f} of the noise's variance is left", flush=True)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="cubes, or folders with cubes")
    parser.add_argument("--hold-out", nargs="*", default=[], help="leave out cubes with these words in their name")
    parser.add_argument("--structure", type=Path, help="image or folder of images (GeoTIFF)")
    parser.add_argument("--generated", type=int, default=40)
    parser.add_argument("--remixed", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cubes = [c for c in find_cubes(given.data) if not any(word in c.stem for word in given.hold_out)]
    images = clean_images(cubes, given.generated, given.remixed, given.structure)
    print(f"{len(images[0])} measured and {len(images[1])} drawn images")
    network = train(images, given.width, given.minutes, given.seed)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, given.output)


if __name__ == "__main__":
    main()
