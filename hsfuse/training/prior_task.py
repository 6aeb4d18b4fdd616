"""Training of the diffusion prior: noise is added to patches of single images, and the network learns to tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.errors import InputError
from hsfuse.fusion.nets.diffusion.noise import pixel_noise
from hsfuse.fusion.nets.diffusion.schedule import signal_power
from hsfuse.fusion.nets.diffusion.unet import SPREAD, PatchPrior, balance
from hsfuse.training.distributed import Team
from hsfuse.training.task import TrainingTask, step_rng

FloatCube = NDArray[np.float32]

LIMIT = 1.0 / SPREAD
"""A patch is scaled so that so many standard deviations of its image are 1."""
_SNR_DB = (18.0, 10.0, 3.0, -4.0)
"""Levels of noise at which a prior is judged: signal over noise of a patch."""
_BRIGHTNESS, _CONTRAST = 0.2, (0.6, 1.5)
_REDUCED_SHARE = 0.3


@dataclass(frozen=True)
class PriorImage:
    """An image to learn from, in units of its own bands: mean 0, standard deviation 1.

    Attributes
    ----------
    name
        For the record.
    bands
        Shape (band, row, col), free of NaN.
    """

    name: str
    bands: FloatCube


@dataclass(frozen=True)
class NoisyPatches:
    """Patches with noise: clean, noise, shape (n, band, row, col), and share of the signal's power, shape (n,)."""

    clean: Tensor
    noise: Tensor
    power: Tensor

    def __len__(self) -> int:
        return int(self.clean.shape[0])

    def part(self, start: int, stop: int) -> Self:
        """Return some of the patches."""
        return type(self)(self.clean[start:stop], self.noise[start:stop], self.power[start:stop])

    @property
    def pixels(self) -> int:
        """Pixels of all patches."""
        return self.clean[:, 0].numel()

    @property
    def noisy(self) -> Tensor:
        """What the network is given."""
        root = self.power.sqrt()[:, None, None, None]
        return root * self.clean + (1.0 - self.power).sqrt()[:, None, None, None] * self.noise


@dataclass(frozen=True)
class PriorScores:
    """How well patches that were not trained on are freed of noise.

    Attributes
    ----------
    denoised_db
        Signal over the error that is left, mean over levels of noise, dB.
    linear_db
        The same of the best linear estimate that knows the variance of the patches but not what they show.
    """

    denoised_db: float
    linear_db: float

    @property
    def quality(self) -> float:
        """What is maximised."""
        return self.denoised_db

    @property
    def text(self) -> str:
        """For the log."""
        return f"{self.denoised_db:.2f} dB of signal over error ({self.linear_db:.2f} without looking)"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {f.name: round(float(getattr(self, f.name)), 4) for f in fields(self)}


class PriorTask(TrainingTask):
    """Unconditional diffusion training on random triplets of bands.

    Parameters
    ----------
    network
        The prior.
    training, validation
        Images.
    patch_px, batch
        Side and number of patches of a step.
    seed
        Of everything random.

    Raises
    ------
    InputError
        No image is large enough, or has enough bands.
    """

    columns = ("denoised_db", "linear_db")
    network: PatchPrior

    def __init__(
        self, network: PatchPrior, training: Sequence[PriorImage], validation: Sequence[PriorImage], *,
        patch_px: int = 48, batch: int = 16, seed: int = 0, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.network = network.to(device)
        self._patch = patch_px // network.settings.multiple * network.settings.multiple
        self._training, self._validation = (self._usable(images) for images in (training, validation))
        self._batch, self._seed, self._device = batch, seed, device
        self._power = signal_power(network.settings.steps)
        self._chances = np.sqrt([image.bands[0].size for image in self._training])
        self._chances /= self._chances.sum()

    def _usable(self, images: Sequence[PriorImage]) -> list[PriorImage]:
        count = self.network.settings.n_bands
        found = [i for i in images if len(i.bands) >= count and min(i.bands.shape[1:]) >= self._patch]
        if not found:
            raise InputError(
                f"No image has {count} bands and {self._patch} x {self._patch} pixels to train or to validate on.",
                hint="Give more or larger images, or a smaller --patch.",
            )
        return found

    @property
    def batch_size(self) -> int:
        """Patches of a step, over all processes."""
        return self._batch

    @property
    def epoch_steps(self) -> int:
        """Steps in which patches cover the area of all images once."""
        area: int = sum(image.bands[0].size for image in self._training)
        return max(1, round(float(area) / self._patch**2 / self._batch))

    def sample(self, step: int, rank: int = 0, size: int = 1) -> NoisyPatches:
        """Return what a process learns from in a step: patches, levels and noise are functions of seed and step."""
        clean, noise, power = [], [], []
        for item in range(rank, self._batch, size):
            rng = step_rng(self._seed, step, item)
            image = self._training[int(rng.choice(len(self._training), p=self._chances))]
            clean.append(self._patch_of(image, rng))
            noise.append(rng.standard_normal(clean[-1].shape, np.float32))
            # Levels stratified over the batch: every step sees weak and strong noise.
            place = (item + rng.random()) / self._batch
            power.append(self._power[min(int(place * self._power.size), self._power.size - 1)])
        return self._patches(clean, noise, power)

    def _patches(self, clean: list[FloatCube], noise: list[FloatCube], power: list[float]) -> NoisyPatches:
        images, added = (torch.from_numpy(np.stack(part)).to(self._device) for part in (clean, noise))
        return NoisyPatches(images, added, torch.tensor(power, dtype=torch.float32, device=self._device))

    def _patch_of(self, image: PriorImage, rng: np.random.Generator) -> FloatCube:
        """A random triplet of bands of a random patch, in any of eight orientations, sometimes at half resolution."""
        bands = image.bands[rng.choice(len(image.bands), self.network.settings.n_bands, replace=False)]
        side = self._patch
        factor = 2 if min(bands.shape[1:]) >= 2 * side and rng.random() < _REDUCED_SHARE else 1
        row, col = (int(rng.integers(size - factor * side + 1)) for size in bands.shape[1:])
        patch = bands[:, row : row + factor * side, col : col + factor * side]
        if factor > 1:
            patch = patch.reshape(len(patch), side, factor, side, factor).mean(axis=(2, 4))
        patch = np.rot90(patch, int(rng.integers(4)), (1, 2))
        patch = patch[:, :, ::-1] if rng.random() < 0.5 else patch
        scale = np.exp(rng.uniform(*np.log(_CONTRAST)))
        signs = rng.choice([-1.0, 1.0], (len(patch), 1, 1))
        moved = (patch * scale * signs / LIMIT) + rng.normal(0.0, _BRIGHTNESS, (len(patch), 1, 1)) * (
            rng.random() < 0.5
        )
        return np.ascontiguousarray(np.clip(moved, -1.0, 1.0), dtype=np.float32)

    def loss(self, sample: NoisyPatches, group: str, step: int) -> Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return the squared error as a share of what the best linear estimate leaves, one value per patch."""
        _, left = balance(sample.power)
        found: Tensor = self.network(sample.noisy, sample.power)
        return ((found.float() - sample.clean) / left).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def validate(self, team: Team) -> PriorScores:
        """Free patches of the validation images from noise of several levels, always the same ones."""
        snr = 10.0 ** (np.array(_SNR_DB) / 10.0) / SPREAD**2
        levels = self._power[np.abs(self._power[:, None] - (snr / (1.0 + snr))[None]).argmin(axis=0)]
        totals = torch.zeros(3, device=self._device)
        for number in range(team.rank, len(self._validation), team.size):
            image = self._validation[number]
            rng = np.random.default_rng([self._seed, 11, number])
            clean = [self._patch_of(image, rng) for _ in levels]
            noise = [pixel_noise(self._seed, number * len(levels) + i, 0, 0, c.shape) for i, c in enumerate(clean)]
            patches = self._patches(clean, noise, [float(v) for v in levels])
            found = self.network(patches.noisy, patches.power).clamp(-1.0, 1.0)
            signal = (patches.clean - patches.clean.mean(dim=(2, 3), keepdim=True)).square().mean(dim=(1, 2, 3))
            left = (found - patches.clean).square().mean(dim=(1, 2, 3))
            noise_power = (1.0 - patches.power) / patches.power
            linear = signal * noise_power / (signal + noise_power)
            mine, plain = (10.0 * torch.log10(signal / error.clamp(min=1e-12)) for error in (left, linear))
            totals += torch.stack([mine.mean(), plain.mean(), torch.ones_like(plain[0])])
        team.add([totals])
        return PriorScores(float(totals[0] / totals[2]), float(totals[1] / totals[2]))

    def restore_scores(self, values: dict[str, Any]) -> PriorScores:
        """Turn what a checkpoint kept of scores into scores."""
        return PriorScores(**values)
