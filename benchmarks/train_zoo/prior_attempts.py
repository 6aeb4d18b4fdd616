"""What the diffusion prior of MPSRNet-Diff brings, apart from any training: ways to use it, on sites it never saw.

    python benchmarks/train_zoo/prior_attempts.py --data CUBES

Nothing is trained, so with and without prior are alike but for the prior: the result is the base estimate plus a share
of what an attempt changes in it. The share, one for each band or one for all, is fitted in closed form on the training
sites; scores are gains over the base estimate on the validation sites. Ratio 6, a panchromatic guide.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.config import TrainConfig
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.mpsrnet_diff.low_rank import LowRankModel
from hsfuse.fusion.methods.mpsrnet_diff.sampling import PriorSampler
from hsfuse.fusion.nets.diffusion.files import load_prior
from hsfuse.fusion.nets.diffusion.noise import pixel_noise
from hsfuse.fusion.nets.diffusion.schedule import signal_power
from hsfuse.fusion.nets.diffusion.unet import SPREAD
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.grid import Slice2D
from hsfuse.metrics.reference import psnr, sam_deg
from hsfuse.progress import SilentProgress
from hsfuse.training.augment import FULL, Disturbance
from hsfuse.training.fusion_task import low_resolution_strip
from hsfuse.training.pairs import ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import TrainingScene
from hsfuse.workflows.training.training_data import collect
from hsfuse.workflows.training.training_inputs import TrainingInput

RATIO, WINDOW_PX, STEPS, DRAWS, MOST = 6, 8, 4, 2, 0.9
LOOK_POWER = 0.999
LEAST_PX = {"train": 60, "validation": 48}
TRAINING_SIDE_PX = 96
SETTINGS = {
    "35 dB": Disturbance(hsi_snr_db=35.0, msi_snr_db=45.0),
    "field": Disturbance(hsi_snr_db=30.0, msi_snr_db=40.0, psf_factor=1.1, shift_px=(0.07, -0.07), msi_gain=0.02,
                         msi_offset=0.005, stripes=0.3),
}  # fmt: skip
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class FromEstimate(PriorSampler):
    """Begins at the base estimate instead of the interpolated HSI."""

    def changed(
        self,
        pair: ReducedPair,
        estimate: Tensor,
        *,
        power: float | None = None,
        looks: bool = True,
        guided: bool = True,
    ) -> Tensor:
        """Return the estimate as the prior, the guidance or both change it.

        Parameters
        ----------
        pair, estimate
            Images, and the base estimate.
        power
            Power of the signal at the level where sampling begins; None: one look without any noise.
        looks
            Whether the prior is used at all.
        guided
            Whether the bands are brought to both measurements.
        """
        model, bands = self.model, torch.as_tensor(self.model.bands)
        scale, mean = (model.spread / SPREAD)[:, None, None], model.mean[:, None, None]
        start, target = (estimate[bands] - mean) / scale, (pair.hsi[bands] - mean) / scale
        gain, wanted = model.guide * scale[:, 0, 0], pair.msi - model.guide_mean[:, None, None]
        together = model.detail / (scale[:, 0, 0][:, None] * scale[:, 0, 0][None, :])
        pull = together @ gain.T @ torch.linalg.inv(gain @ together @ gain.T + model.misfit)
        levels = np.array([LOOK_POWER])
        if power is not None:
            powers = np.asarray(signal_power(self.prior.settings.steps))
            first = int(np.argmin(np.abs(powers - power)))
            levels = powers[np.linspace(first, 0, self.steps).round().astype(int)]
        noise = torch.from_numpy(pixel_noise(self.seed, 0, 0, 0, tuple(start.shape)))
        x = float(levels[0]) ** 0.5 * start + (0.0 if power is None else (1.0 - float(levels[0])) ** 0.5 * noise)
        clean = start
        for index, level in enumerate(map(float, levels)):
            clean = self._denoised(x, level) if looks else start
            clean = self._guided(clean, target, wanted, gain, pull) if guided else clean
            if index + 1 < len(levels):
                then = float(levels[index + 1])
                left = (x - level**0.5 * clean) / (1.0 - level) ** 0.5
                x = then**0.5 * clean + (1.0 - then) ** 0.5 * left
        return estimate + torch.einsum("br,rij->bij", model.expand, (clean - start) * scale)


Attempt = Callable[[FromEstimate, ReducedPair, Tensor], Tensor]


def as_shipped(sampler: FromEstimate, pair: ReducedPair, estimate: Tensor) -> Tensor:  # noqa: ARG001
    return sampler.cube(pair.hsi, pair.msi, (0, 0), *(slice(0, size) for size in pair.hsi.shape[1:]))


def mean_of_four(sampler: FromEstimate, pair: ReducedPair, estimate: Tensor) -> Tensor:
    samples = [replace(sampler, seed=seed).changed(pair, estimate, power=0.5) for seed in range(4)]
    return torch.stack(samples).mean(dim=0)


ATTEMPTS: dict[str, Attempt] = {
    "sampled from the interpolated HSI, 4 steps (as shipped)": as_shipped,
    "sampled from the estimate with as much noise as signal, 4 steps": lambda s, p, e: s.changed(p, e, power=0.5),
    "mean of four such samples": mean_of_four,
    "one look at the estimate, no noise added": lambda s, p, e: s.changed(p, e),
    "the same without guidance": lambda s, p, e: s.changed(p, e, guided=False),
    "guidance alone, no prior": lambda s, p, e: s.changed(p, e, looks=False),
}


class Maker:
    """Makes reduced pairs, their base estimates, and what every attempt makes of them."""

    def __init__(self, data: Path, sites: Path) -> None:
        header = find_model("mpsrnet-diff-lite").header()
        if header is None:
            raise SystemExit("mpsrnet-diff-lite has no weights, whose bands are used.")
        self._data, self._header = data, header
        self._sites = tomllib.loads(sites.read_text(encoding="utf-8"))
        self.centre, self.fwhm = np.asarray(header.centre_nm), np.asarray(header.fwhm_nm)
        self._reducer, self._prior = Reducer(self.centre, self.fwhm), load_prior(n_bands=3).network.eval()

    def scenes(self, split: str) -> Iterator[tuple[str, TrainingScene]]:
        """Cubes of a split that have the network's bands and are large enough."""
        config = TrainConfig.resolve(None, guide="pan", ratio=str(RATIO), steps=1)
        own = set(self._sites["bands"]["own"])
        for name in (name for names in self._sites[split].values() for name in names if name not in own):
            path = self._data / f"{name}.npz"
            if not path.is_file():
                continue
            try:
                entries = collect([TrainingInput(path, ())], config, self._header, SilentProgress()).entries
            except HsfuseError as error:  # a cube without the network's bands, or too small
                print(f"{name}: left out ({error.message})")
                continue
            scene = entries[0].load()
            if min(scene.valid.shape) >= LEAST_PX[split]:
                yield name, scene

    def made(
        self, scene: TrainingScene, disturbance: Disturbance, side: int | None = None
    ) -> tuple[ReducedPair, Tensor, dict[str, Tensor]]:
        """Reduced pair of a scene, its base estimate, and the cube of every attempt."""
        height, width = (min(size, side or size) // RATIO * RATIO for size in scene.valid.shape)
        pair = self._reducer.make(scene, Slice2D(0, height, 0, width), RATIO, disturbance)
        strip, facts = low_resolution_strip(pair), pair.facts
        base = create_method("glp")
        base.fit(FusionContext(RATIO, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, seed=facts.seed), [strip])
        estimate = base.fuse(pair.hsi[None], pair.msi[None])[0].float()
        model = LowRankModel.of(gather([strip]), 3)
        sampler = FromEstimate(self._prior, model, facts.psf, RATIO, WINDOW_PX, STEPS, facts.seed)
        with torch.no_grad():
            return pair, estimate, {name: make(sampler, pair, estimate) for name, make in ATTEMPTS.items()}


def fitted_shares(maker: Maker) -> dict[str, tuple[Vector, Vector]]:
    """Shares of every attempt, by band and for all bands, that leave the least squared error on training sites."""
    zero = np.zeros(len(maker.centre))
    product, square = dict.fromkeys(ATTEMPTS, zero), dict.fromkeys(ATTEMPTS, zero)
    for _, scene in maker.scenes("train"):
        for draw in range(DRAWS):
            disturbance = Disturbance.draw(FULL, np.random.default_rng([7, draw]))
            pair, estimate, made = maker.made(scene, disturbance, TRAINING_SIDE_PX)
            error = pair.target - estimate
            unit = (error.square() * pair.valid).mean(dim=(1, 2)).sqrt()[:, None, None].clamp(min=1e-4)
            for name, cube in made.items():
                change = (cube - estimate) / unit
                product[name] = product[name] + (change * error / unit * pair.valid).mean(dim=(1, 2)).numpy()
                square[name] = square[name] + (change.square() * pair.valid).mean(dim=(1, 2)).numpy()
    shares = {}
    for name in ATTEMPTS:
        each = np.clip(product[name] / np.maximum(square[name], 1e-12), 0.0, MOST)
        shares[name] = each, np.full_like(each, np.clip(product[name].sum() / square[name].sum(), 0.0, MOST))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the cubes of the sites")
    parser.add_argument("--sites", type=Path, default=Path(__file__).parents[1] / "sites.toml")
    given = parser.parse_args()
    torch.set_num_threads(1)
    maker = Maker(given.data, given.sites)
    shares = fitted_shares(maker)
    gains: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for _, scene in maker.scenes("validation"):
        for setting, disturbance in SETTINGS.items():
            pair, estimate, made = maker.made(scene, disturbance)
            truth, valid = pair.target.numpy(), pair.valid.bool().numpy()
            before = psnr(truth, estimate.numpy(), valid), sam_deg(truth, estimate.numpy(), valid)
            for name, cube in made.items():
                for kind, share in zip(("each band", "all bands"), shares[name], strict=True):
                    part = torch.as_tensor(share, dtype=torch.float32)[:, None, None]
                    fused = (estimate + part * (cube - estimate)).numpy()
                    gain = psnr(truth, fused, valid) - before[0], sam_deg(truth, fused, valid) - before[1]
                    gains.setdefault((name, kind, setting), []).append(gain)
    print("| attempt | share of | setting | gain dB | worst cube dB | SAM deg |\n|---|---|---|---|---|---|")
    for (name, kind, setting), found in gains.items():
        mean, worst = np.mean(found, axis=0), min(gain for gain, _ in found)
        print(f"| {name} | {kind} | {setting} | {mean[0]:+.3f} | {worst:+.3f} | {mean[1]:+.3f} |")


if __name__ == "__main__":
    main()
