"""Fit the guard of the gate: the share of its change that a component gets on scenes too small to try it on.

    python benchmarks/fit_guard.py models/ssrfn models/ssrfn-lite --scenes 800

Small scenes are cut from the training and validation sites (10 to 40 HSI pixels a side and whole cubes), with 8 to 156
bands, 1 to 10 MSI bands, in every setting, unchanged and changed. The coefficients maximise the mean gain over the
maximum a posteriori estimate, what ends below it counted twice, both qualities and all weights
together. Printed are scores of the package's guard and of one fitted to other sites, then the coefficients for
``hsfuse/fusion/methods/ssrfn/guard.py``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gate_weights import Remembering, loaded_gates
from numpy.typing import NDArray
from pair_changes import CHANGES
from quality_scenes import ReferenceScene
from real_pairs import RATIO, make_pair, split_scenes

from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError, InputError
from hsfuse.fusion.experts.tile import evaluate
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS
from hsfuse.fusion.methods.ssrfn.guard import FACTS, LIMIT, GuardEvidence, shares
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.scene import DISPLACED_SHARE
from hsfuse.fusion.mixing import mix
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.sensors.sentinel2 import BANDS_ALL, table_responses
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

FloatArray = NDArray[np.float64]
_SIDES_PX = (10, 12, 14, 17, 20, 25, 30, 40)
_LEAST_PX = 30
"""Of a side, fine pixels."""
_PIXELS_PER_BAND = 1.3
_BANDS_LOOKED_AT = 16
_LOSS_WEIGHT, _MOST_GAIN_DB, _DECAY = 1.0, 0.5, 0.003
_STEPS, _RATE, _FOLDS = 120, 0.08, 5


@dataclass(frozen=True)
class Case:
    """One scene, one network, one quality.

    Attributes
    ----------
    site
        Where it was cut from.
    facts
        Shape (component, fact).
    agreed, seen, moved
        By band and component: products of the estimate's error with what each component changes, relative to the
        error's square, shape (band, component); bands of a component in units of the error, the same shape; squares
        of what components change, shape (component, component).
    """

    site: str
    facts: FloatArray
    agreed: FloatArray
    seen: FloatArray
    moved: FloatArray


def with_ten_bands(scene: ReferenceScene) -> ReferenceScene:
    """Show a scene to all bands of Sentinel-2; as it is where it does not cover them."""
    try:
        return ReferenceScene.make(
            scene.name, scene.cube, scene.bands, table_responses("Sentinel-2A", BANDS_ALL), file=scene.file
        )  # fmt: skip
    except InputError:
        return scene


def small_scene(
    cubes: Sequence[tuple[str, ReferenceScene, ReferenceScene]], rng: np.random.Generator
) -> tuple[str, ReferenceScene]:
    """Cut a part of a cube, and keep some of its bands; a fifth of them are whole, a fifth have bands of noise."""
    site, *views = cubes[int(rng.integers(len(cubes)))]
    drawn = rng.random()
    scene = views[int(drawn > 0.9)]
    if 0.75 < drawn <= 0.9:
        kept = sorted(rng.choice(len(scene.msi), int(rng.integers(1, len(scene.msi))), replace=False).tolist())
        scene = replace(
            scene, msi=scene.msi[kept], srf=scene.srf[kept], responses=tuple(scene.responses[k] for k in kept)
        )  # fmt: skip
    if rng.random() < 0.8:
        side = RATIO * int(rng.choice(_SIDES_PX))
        place = []
        for size in scene.cube.shape[1:]:
            length = min(side, size)
            start = int(rng.integers(size - length + 1))
            place.append(slice(start, start + length))
        scene = replace(scene, cube=scene.cube[:, *place], msi=scene.msi[:, *place])
    if rng.random() < 0.2:
        noisy, level = max(1, len(scene.cube) // int(rng.integers(8, 30))), rng.uniform(0.01, 0.05)
        cube = scene.cube.copy()
        cube[:noisy] += level * rng.standard_normal(cube[:noisy].shape).astype(np.float32)
        scene = replace(scene, cube=np.maximum(cube, 0.0))
    rows, cols = (size // RATIO for size in scene.cube.shape[1:])
    most = max(int(rows * cols / _PIXELS_PER_BAND), 8)
    if rng.random() < 0.5 or most < len(scene.cube):
        count = min(len(scene.cube), most, round(float(np.exp(rng.uniform(np.log(8), np.log(200))))))
        kept = np.sort(rng.choice(len(scene.cube), count, replace=False)).tolist()
        scene = replace(scene, cube=scene.cube[kept], bands=scene.bands.take(kept), srf=scene.srf[:, kept])
    return site, replace(scene, cube=np.ascontiguousarray(scene.cube))


def cases(networks: dict[str, Gate], site: str, scene: ReferenceScene, rng: np.random.Generator) -> list[Case]:
    """Fuse one scene by all networks; none where the scene has no experts."""
    four = len(scene.msi) == 4
    setting = str(rng.choice(["35dB", "field", "noise-free", "real"], p=[0.4, 0.3, 0.1, 0.2]))
    changed = four and rng.random() < 0.45
    change = str(rng.choice(CHANGES)) if changed else "none"
    pair, _ = make_pair(scene, setting if four else setting.replace("real", "field"), change, int(rng.integers(1000)))
    blind = not changed and rng.random() < 0.7
    whole = array_scene(pair.hsi, pair.msi, scene.bands, None if blind else scene.responses or None, RATIO, Psf(1.0))
    method = Remembering(next(iter(networks.values())), quality="best", validate=False)
    repaired = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
    pipeline.fuse_to_array(method, repaired, resolved(None), tile=512)
    found = None if method.shown is None else method.expert_outputs(*method.shown)
    if found is None:
        return []
    gate_scene, tile, base, state, outputs = found
    canonical = gate_scene.bank.canonical
    start = tile.estimate - tile.start
    error = pair.truth.astype(np.float64) - (base + mix(gate_scene.step.back, start))[0].numpy()
    bands = np.unique(np.linspace(0, len(error) - 1, _BANDS_LOOKED_AT).round().astype(int))
    error = error[bands].reshape(len(bands), -1)
    square = (error**2).mean(axis=1)
    shown = (gate_scene.step.back @ canonical.out).double().numpy()[bands]
    fewer = evaluate(gate_scene.bank, tile, best=False)[1]
    made = []
    for network in networks.values():
        for best in (False, True):
            said = outputs if best else fewer
            used = network.displaced if method.displaced else network
            if used is None:
                continue
            correction = used(state, said, canonical.log_strength[None], RATIO)
            if method.displaced:
                change_made = replace(gate_scene, last=None).followed(tile, DISPLACED_SHARE * correction)
            else:
                change_made = gate_scene.followed(tile, correction)
            facts = GuardEvidence.of(gate_scene, tile, change_made).of_scene(gate_scene)
            moved = mix(canonical.into, change_made - start)[0].flatten(1).double().numpy()
            products = error @ moved.T / moved.shape[1]
            made.append(Case(
                site, facts.numpy(), shown * products / square[:, None], shown / np.sqrt(square)[:, None],
                moved @ moved.T / moved.shape[1],
            ))  # fmt: skip
    return made


class Fit:
    """Cases side by side, padded to the same number of components and bands."""

    def __init__(self, found: Sequence[Case]) -> None:
        bands, size = _BANDS_LOOKED_AT, MOST_COMPONENTS
        self.sites = np.array([case.site for case in found])
        facts = np.concatenate([case.facts for case in found])
        self.mean, self.deviation = facts.mean(axis=0), facts.std(axis=0) + 1e-6

        def padded(arrays: Sequence[FloatArray], *shape: int) -> torch.Tensor:
            out = np.zeros((len(arrays), *shape))
            for one, array in zip(out, arrays, strict=True):
                one[: array.shape[0], : array.shape[1]] = array
            return torch.from_numpy(out)

        standard = [np.clip((case.facts - self.mean) / self.deviation, -LIMIT, LIMIT) for case in found]
        self.facts = padded(standard, size, len(FACTS))
        self.agreed = padded([case.agreed for case in found], bands, size)
        self.seen = padded([case.seen for case in found], bands, size)
        self.moved = padded([case.moved for case in found], size, size)
        self.weight = padded([np.full((len(case.agreed), 1), 1.0 / len(case.agreed)) for case in found], bands, 1)

    def gains(self, used: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Gains over the estimate, dB, mean over the bands."""
        part = self.seen[chosen] * used[:, None]
        left = 1.0 - 2.0 * (self.agreed[chosen] * used[:, None]).sum(dim=-1)
        left = left + torch.einsum("nbk,nkl,nbl->nb", part, self.moved[chosen], part)
        return (-10.0 * torch.log10(left.clamp_min(1e-3)) * self.weight[chosen, :, 0]).sum(dim=1)

    def shares(self, chosen: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Shares of the components; the last coefficient is the constant."""
        return torch.sigmoid(self.facts[chosen] @ coefficients[:-1] + coefficients[-1])

    def fitted(self, chosen: torch.Tensor) -> torch.Tensor:
        """Coefficients and constant of some cases."""
        coefficients = torch.zeros(len(FACTS) + 1, dtype=torch.float64)
        coefficients[-1] = 1.0
        coefficients.requires_grad_()
        optimiser = torch.optim.Adam([coefficients], lr=_RATE)
        for _ in range(_STEPS):
            gain = self.gains(self.shares(chosen, coefficients), chosen)
            lost = torch.relu(-gain).mean()
            loss = _LOSS_WEIGHT * lost - gain.clamp(max=_MOST_GAIN_DB).mean()
            loss = loss + _DECAY * coefficients[:-1].square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return coefficients.detach()

    def as_shipped(self, found: Sequence[Case]) -> torch.Tensor:
        """Shares of all cases by the coefficients of the package."""
        made = torch.ones(self.facts.shape[:2], dtype=torch.float64)
        for one, case in zip(made, found, strict=True):
            one[: len(case.facts)] = shares(torch.from_numpy(case.facts))
        return made

    def left_out(self) -> torch.Tensor:
        """Shares of all cases by what was fitted to the other sites."""
        found = torch.ones(self.facts.shape[:2], dtype=torch.float64)
        for names in np.array_split(np.unique(self.sites), _FOLDS):
            here = torch.from_numpy(np.isin(self.sites, names))
            with torch.enable_grad():
                coefficients = self.fitted(~here)
            found[here] = self.shares(here, coefficients)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("weights", type=Path, nargs="+", help="files, or folders that hold weights.safetensors")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--scenes", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    networks = loaded_gates(given.weights)
    cubes = [
        (site, scene, with_ten_bands(scene))
        for split in ("train", "validation")
        for site, scene in split_scenes(split, given.data)
        if min(scene.cube.shape[1:]) >= _LEAST_PX
    ]
    found: list[Case] = []
    start = time.perf_counter()
    for number in range(given.scenes):
        rng = np.random.default_rng([given.seed, number])
        try:
            found += cases(networks, *small_scene(cubes, rng), rng)
        except HsfuseError as error:
            print(f"scene {number}: {error.message}")
        if number % 50 == 49:
            print(f"{number + 1} scenes, {len(found)} cases, {time.perf_counter() - start:.0f} s", flush=True)
    fit = Fit(found)
    everything = torch.ones(len(found), dtype=torch.bool)
    with torch.enable_grad():
        coefficients = fit.fitted(everything)
    for label, used in (("all of the change", torch.ones(fit.facts.shape[:2], dtype=torch.float64)),
                        ("as the package guards", fit.as_shipped(found)),
                        ("guarded, sites left out", fit.left_out()),
                        ("guarded", fit.shares(everything, coefficients))):  # fmt: skip
        gains = fit.gains(used, everything).numpy()
        print(f"{label}: mean {gains.mean():+.3f} dB, lost {np.maximum(-gains, 0.0).mean():.4f} dB, below -0.02 dB "
              f"{100 * (gains < -0.02).mean():.1f} %, worst {np.sort(gains)[:5].round(3).tolist()}")  # fmt: skip
    for name, *numbers in zip(FACTS, fit.mean, fit.deviation, coefficients[:-1].tolist(), strict=True):
        print(f'    "{name}": _Fact({", ".join(f"{value:.4f}" for value in numbers)}),')
    print(f"CONSTANT = {float(coefficients[-1]):.4f}")


if __name__ == "__main__":
    main()
