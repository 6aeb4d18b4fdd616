"""Several weights of the gate against each other: seeds, backbones, recipes. A scene's experts are worked out once.

    python benchmarks/gate_weights.py A/weights.safetensors B/weights.safetensors --settings 35dB field 35dB+season

Every pair is made and repaired as in real_pairs.py, unchanged ones are fused blind. Gains are over ``glp`` alone and
over the maximum a posteriori estimate that the gate starts from, means over the sites; the worst cube is against that
estimate. Of pairs with a change it is told how far inside is above interpolation, and outside above ``glp`` alone on
the unchanged pair. Weights that were trained on what is scored are named below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from quality_scenes import ReferenceScene
from real_pairs import RATIO, fused_pair, make_pair, psnr, split_scenes

from hsfuse.degrade import Psf, Window, upsample_array
from hsfuse.degrade.windows import whole as whole_window
from hsfuse.fusion.base import CHANGE_IMAGES, FusionContext, LowResolutionStrip
from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.experts.outside import OutsideSubspace
from hsfuse.fusion.experts.tile import evaluate
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS
from hsfuse.fusion.methods.ssrfn.guard import GuardEvidence, shares
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.scene import DISPLACED_SHARE
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.nets.header import read_header
from hsfuse.fusion.nets.weights import load_weights
from hsfuse.fusion.nets.zoo import WEIGHTS_FILE
from hsfuse.grid import Slice2D
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.inference.scene import FusionScene
from hsfuse.metrics.reference import score_all
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

FloatCube = NDArray[np.float32]
_TIMED_PX = 192
_WHOLE_PX = 512
"""Of a tile, HSI pixels: more than any of these scenes."""


@dataclass(frozen=True)
class Scored:
    """One cube: PSNR in dB, inside and outside of a change too, and SAM in degrees."""

    site: str
    scene: str
    setting: str
    job: str
    psnr: float
    sam: float
    inside: float | None = None
    outside: float | None = None


class Remembering(GateMethod):
    """Keeps the tile that it is shown: these scenes are one tile each."""

    shown: tuple[torch.Tensor, torch.Tensor] | None = None
    fewer: OutsideSubspace | None = None
    """What ``standard`` adds outside of the subspace."""

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the experts, and what follows outside of the subspace for both qualities."""
        strips = list(strips)
        super().fit(context, strips)
        if self.scene_model is not None:
            self.fewer = OutsideSubspace.fit(strips, self.scene_model, best=False, seed=context.seed)

    def guide_filter(self) -> None:
        """The guide is cleaned with the tile."""

    def change_aware(self) -> None:
        """What is known of the change is asked for by :func:`evidence_of`."""

    def fuse_window(self, hsi: torch.Tensor, msi: torch.Tensor, window: Window) -> torch.Tensor:
        """Return nothing of use."""
        if self.shown is not None:
            raise SystemExit("The scene is more than one tile.")
        self.shown = (hsi, msi)
        rows, cols = ((part.stop - part.start) * RATIO for part in window)
        return hsi.new_zeros((len(hsi), hsi.shape[1], rows, cols))


def loaded_gates(paths: Sequence[Path]) -> dict[str, Gate]:
    """Read weights from files, or from folders that hold them; by the folders' names."""
    networks = {}
    for path in paths:
        name, file = weights_at(path)
        network = load_weights(file).network
        if not isinstance(network, Gate):
            raise SystemExit(f"{path} holds no gate.")
        if name in networks:
            raise SystemExit(f"Two of the weights are called {name}: give one of their folders another name.")
        networks[name] = network.eval()
    return networks


def weights_at(path: Path) -> tuple[str, Path]:
    """Name and file of weights, from the file or the folder that holds it."""
    return (path.name, path / WEIGHTS_FILE) if path.is_dir() else (path.parent.name, path)


def trained_on(paths: Sequence[Path], scenes: Sequence[str]) -> list[str]:
    """A sentence for each of the weights whose record names scenes that are scored."""
    told = []
    for name, file in map(weights_at, paths):
        record = [str(scene) for scene in read_header(file).training.get("scenes", [])]
        seen = [scene for scene in scenes if any(scene in one for one in record)]
        if seen:
            told.append(f"{name} was trained on {len(seen)} of these {len(scenes)} cubes: {', '.join(seen)}")
    return told


def evidence_of(scene: FusionScene) -> torch.Tensor | None:
    """What is known of the change of a whole scene's guide, shape (1, image, row, col); None: nothing changed."""
    if scene.change is None:
        return None
    height, width = scene.fine_grid.shape
    return torch.from_numpy(scene.change.read(Slice2D(0, height, 0, width), list(range(CHANGE_IMAGES))))[None]


def fused_by_all(
    networks: dict[str, Gate], method: Remembering, evidence: torch.Tensor | None
) -> dict[str, FloatCube]:  # fmt: skip
    """What every network makes of the scene that ``method`` was fitted to, by ``name+quality``."""
    if method.shown is None:
        raise SystemExit("No tile was fused.")
    found = method.expert_outputs(*method.shown)
    jobs = [(name, quality) for name in networks for quality in ("standard", "best")]
    if found is None:
        hsi, msi = method.shown
        estimate = GateMethod.fuse_window(method, hsi, msi, whole_window(hsi))[0].numpy()
        return {"estimate": estimate} | {f"{name}+{quality}": estimate for name, quality in jobs}
    scene, tile, base, state, outputs = found
    strength = scene.bank.canonical.log_strength[None]
    fewer = evaluate(scene.bank, tile, best=False)[1]
    results = {"estimate": (base + mix(scene.step.back, tile.estimate - tile.start))[0].numpy()}
    for name, quality in jobs:
        said = outputs if quality == "best" else fewer
        network = networks[name].displaced if method.displaced else networks[name]
        if network is None:
            results[f"{name}+{quality}"] = results["estimate"]
            continue
        correction = network(state, said, strength, RATIO, evidence=evidence)
        if method.displaced:
            change = replace(scene, last=None).followed(tile, DISPLACED_SHARE * correction)
        else:
            change = scene.followed(tile, correction)
        guarded = replace(scene, trust=shares(GuardEvidence.of(scene, tile, change).of_scene(scene)))
        change = guarded.held_back(tile, change)
        if quality == "best" and scene.last_pass:
            rows, cols = change.shape[2:]
            change = scene.denoised(tile.start, change, (slice(0, rows), slice(0, cols)))
        cube = base + mix(scene.step.back, change)
        outside = scene.outside if quality == "best" else method.fewer
        if outside is not None:
            outside.add_to(cube, tile.start + change)
        results[f"{name}+{quality}"] = cube[0].numpy()
    return results


def score_scene(networks: dict[str, Gate], site: str, scene: ReferenceScene, setting: str) -> list[Scored]:
    """Fuse one cube by all networks, and without one."""
    condition, _, change = setting.partition("+")
    pair, mask = make_pair(scene, condition, change or "none", 0)
    blind = not change
    whole = array_scene(pair.hsi, pair.msi, scene.bands, None if blind else scene.responses or None, RATIO, Psf(1.0))
    # What a network without weights for displaced pairs is not asked for, another one may be.
    method = Remembering(next(iter(networks.values())), quality="best", validate=False)
    repaired = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
    pipeline.fuse_to_array(method, repaired, resolved(None), tile=_WHOLE_PX)
    unchanged = pair if blind else make_pair(scene, condition, "none", 0)[0]
    results = {"glp": fused_pair(scene, unchanged, None, blind=blind).cube} | fused_by_all(
        networks, method, evidence_of(repaired)
    )
    if not blind:
        results["bicubic"] = upsample_array(pair.hsi, RATIO)
    scored = []
    for job, cube in results.items():
        found = score_all(pair.truth, cube, RATIO)
        parts = () if blind else (psnr(pair.truth, cube, mask), psnr(pair.truth, cube, ~mask))
        scored.append(Scored(site, scene.name, setting, job, found.psnr_db, found.sam_deg, *parts))
    return scored


def seconds_per_megapixel(network: Gate) -> float:
    """Processor time of the network alone on one tile."""
    generator = torch.Generator().manual_seed(0)
    size = (_TIMED_PX, _TIMED_PX)
    state = 10.0 * torch.randn((1, MOST_COMPONENTS, *size), generator=generator)
    outputs = torch.randn((1, len(EXPERTS), MOST_COMPONENTS, *size), generator=generator)
    times = []
    for _ in range(2):
        start = time.process_time()
        network(state, outputs, torch.linspace(4.0, 0.5, MOST_COMPONENTS)[None], RATIO)
        times.append(time.process_time() - start)
    return min(times) / (_TIMED_PX**2 / 1e6)


def table(records: Sequence[Scored], networks: dict[str, Gate], settings: Sequence[str]) -> str:
    """Gains by network, quality and setting."""
    at = {(r.scene, r.setting, r.job): r for r in records}
    heads = [f"{s}: inside, outside, worst" if "+" in s else f"{s}: over glp, SAM, over the estimate, worst"
             for s in settings]  # fmt: skip
    lines = ["| weights | size | s/Mpx | quality | " + " | ".join(heads) + " |", "|---" * (4 + len(settings)) + "|"]
    rows: list[tuple[str, Gate | None]] = [("estimate", None), *networks.items()]
    for name, network in rows:
        about = f"| {name} | {'' if network is None else sum(p.numel() for p in network.parameters())} | "
        about += "" if network is None else f"{seconds_per_megapixel(network):.1f}"
        for quality in ("standard",) if network is None else ("standard", "best"):
            cells = []
            for setting in settings:
                sites: dict[str, list[tuple[float, ...]]] = {}
                worst = []
                for r in records:
                    if (r.setting, r.job) == (setting, name if network is None else f"{name}+{quality}"):
                        glp, estimate = at[r.scene, setting, "glp"], at[r.scene, setting, "estimate"]
                        beyond = r.psnr - estimate.psnr
                        values: tuple[float, ...] = (r.psnr - glp.psnr, r.sam / glp.sam, beyond)
                        if "+" in setting:
                            bicubic = at[r.scene, setting, "bicubic"].inside
                            # A cube without plants has no season.
                            inside = np.nan if r.inside is None or bicubic is None else r.inside - bicubic
                            values = (inside, (r.psnr if r.outside is None else r.outside) - glp.psnr)
                        sites.setdefault(r.site, []).append(values)
                        worst.append(beyond)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    mean = np.nanmean([np.nanmean(found, axis=0) for found in sites.values()], axis=0)
                told = [f"{value:+.2f}" for value in mean]
                if len(told) > 2:
                    told[1] = f"x {mean[1]:.3f}"
                cells.append(", ".join([*told, f"{min(worst):+.2f}"]))
            lines.append(f"{about} | {quality} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("weights", type=Path, nargs="+", help="files, or folders that hold weights.safetensors")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="validation")
    parser.add_argument("--scenes", nargs="*", default=[], help="only cubes whose name contains one of these")
    parser.add_argument("--settings", nargs="*", default=["35dB", "field", "noise-free"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every score to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    networks = loaded_gates(given.weights)
    records: list[Scored] = []
    for site, scene in split_scenes(given.split, given.data, given.scenes):
        for setting in given.settings:
            records += score_scene(networks, site, scene, setting)
            best = " ".join(f"{r.job} {r.psnr:.2f}" for r in records if (r.scene, r.setting) == (scene.name, setting))
            print(f"{scene.name} {setting}: {best}", flush=True)
            if given.json:
                given.json.write_text(json.dumps([asdict(r) for r in records]) + "\n", encoding="utf-8")
    print(table(records, networks, given.settings))
    for sentence in trained_on(given.weights, list(dict.fromkeys(r.scene for r in records))):
        print(sentence)


if __name__ == "__main__":
    main()
