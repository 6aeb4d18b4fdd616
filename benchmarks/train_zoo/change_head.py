"""Train the head by which a gate sees changed ground, behind the gate as it is.

    python benchmarks/train_zoo/change_head.py models/ssrfn models/ssrfn-lite --data ../shared/data

Windows of the training sites get a simulated change (benchmarks/pair_changes.py) and are repaired as a run does it;
then the experts are asked. Gate and experts stay as they are; what the head adds to the weights is fitted to the error
that is left. Where nothing changed it adds nothing, whatever it learned. Scores are told on windows of the validation
sites, inside and outside of the change; the weights are written where they were read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_weights import Remembering, evidence_of
from quality_scenes import ReferenceScene
from real_pairs import RATIO, make_pair, split_scenes

from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError
from hsfuse.fusion.experts.bank import BEST_ONLY, EXPERTS
from hsfuse.fusion.methods.ssrfn.augmentation import CAP, METRIC, OUTPUTS, STATE, STRENGTH
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.objective import TARGET, WeighedWindow, as_tensors, errors_left, relative_loss
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.nets.zoo import CARD_FILE, WEIGHTS_FILE
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

KINDS = ("parcels", "shadow", "cloud", "mix")
"""Changes with other ground or light; seasons and haze are taken out of the guide before."""
SETTINGS = ("35dB", "field")
WINDOW_PX, LEAST_PX, PATCH_PX = 96, 40, 36
STEPS, RATE, BATCH = 400, 1e-2, 8
WINDOWS, VALIDATION_WINDOWS = 96, 32
_LEAST_PIXELS = 20
Scores = dict[tuple[str, bool], tuple[float, float]]
"""Gains inside and outside of the change, dB, by its kind and by whether ``best`` was asked."""


@dataclass(frozen=True)
class Window:
    """A window, what the experts say of it, and what is known of its change.

    Attributes
    ----------
    kind
        Of the change.
    tensors
        As of :func:`~hsfuse.fusion.methods.ssrfn.objective.as_tensors`.
    evidence
        Shape (1, image, row, col).
    inside
        Where the change truly is, shape (row, col).
    """

    kind: str
    tensors: dict[str, Tensor]
    evidence: Tensor
    inside: Tensor

    def said(self, *, best: bool) -> Tensor:
        """What experts say, shape (1, expert, component, row, col)."""
        outputs = self.tensors[OUTPUTS].float().unflatten(0, (len(EXPERTS), -1))[None]
        if not best:
            outputs[:, [EXPERTS.index(name) for name in BEST_ONLY]] = 0.0
        return outputs


@dataclass(frozen=True)
class Asked:
    """A window before a gate: what the weights are made of without the head, of one quality."""

    window: Window
    found: Tensor
    best: bool

    def errors(self, network: Gate, rows: slice = slice(None), cols: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Errors of the estimate and of the gate in a part of the window, shape (1, row, col)."""
        tensors, part = self.window.tensors, (..., rows, cols)
        correction = network.weighed(
            self.found[part], self.window.evidence[part], self.window.said(best=self.best)[part], tensors[STRENGTH]
        )  # fmt: skip
        target = tensors[TARGET][None][part]
        return errors_left(target, tensors[METRIC]), errors_left(target - correction, tensors[METRIC])


def windows(split: str, data: Path, count: int, seed: int, network: Gate) -> Iterator[Window]:
    """Draw changed windows of one side of the sites; those without a change that was found are left out."""
    scenes = [scene for _, scene in split_scenes(split, data) if min(scene.cube.shape[1:]) >= LEAST_PX]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene, kind = scenes[int(rng.integers(len(scenes)))], KINDS[number % len(KINDS)]
        place = []
        for size in scene.cube.shape[1:]:
            length = min(WINDOW_PX, size) // RATIO * RATIO
            start = int(rng.integers(size - length + 1))
            place.append(slice(start, start + length))
        part = replace(scene, cube=np.ascontiguousarray(scene.cube[:, *place]), msi=scene.msi[:, *place])
        try:
            made = window(part, str(rng.choice(SETTINGS)), kind, int(rng.integers(1000)), network)
        except HsfuseError as error:
            print(f"{scene.name} {kind}: {error.message}")
            continue
        if made is not None:
            yield made


def window(scene: ReferenceScene, setting: str, kind: str, seed: int, network: Gate) -> Window | None:
    """Make one; None where nothing was found to have changed, or where experts or weights are missing."""
    pair, mask = make_pair(scene, setting, kind, seed)
    whole = array_scene(pair.hsi, pair.msi, scene.bands, scene.responses or None, RATIO, Psf(1.0))
    method = Remembering(network, quality="best", validate=False)
    repaired = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
    pipeline.fuse_to_array(method, repaired, resolved(None), tile=512)
    evidence = evidence_of(repaired)
    found = None if method.shown is None or method.displaced else method.expert_outputs(*method.shown)
    if found is None or evidence is None:
        return None
    gate_scene, tile, base, state, outputs = found
    estimate = base + mix(gate_scene.step.back, tile.estimate - tile.start)
    truth = torch.from_numpy(pair.truth)[None]
    counted = torch.ones(truth.shape[-2:], dtype=torch.bool)
    weighed = WeighedWindow.of(gate_scene, (state, outputs), estimate, truth, counted)
    return Window(kind, as_tensors([weighed], gate_scene)[0], evidence, torch.from_numpy(mask))


def asked(network: Gate, made: Sequence[Window]) -> list[Asked]:
    """Show windows to a gate, with both qualities."""
    found = []
    for one in made:
        for best in (False, True):
            features = network.features(one.tensors[STATE].float()[None], one.said(best=best), one.tensors[STRENGTH])
            found.append(Asked(one, network.found(features, RATIO), best))
    return found


def train(network: Gate, made: Sequence[Asked], seed: int) -> None:
    """Fit the head; all else stays as it is."""
    if network.change is None:
        raise SystemExit("The gate has no head for changes.")
    rng = np.random.default_rng(seed)
    network.change.requires_grad_(requires_grad=True)
    optimiser = torch.optim.Adam(network.change.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            losses = []
            for _ in range(BATCH):
                one = made[int(rng.integers(len(made)))]
                rows, cols = (
                    slice(start, start + PATCH_PX)
                    for start in (int(rng.integers(size - PATCH_PX + 1)) for size in one.found.shape[-2:])
                )
                before, left = one.errors(network, rows, cols)
                cap = one.window.tensors[CAP][:, None]
                losses.append(relative_loss(before.flatten(1), left.flatten(1), cap))
            loss = torch.cat(losses).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def scores(network: Gate, made: Sequence[Asked]) -> Scores:
    """Gains over the estimate inside and outside of the change, dB, by kind and quality."""
    gains: dict[tuple[str, bool], list[list[float]]] = {}
    for one in made:
        before, left = one.errors(network)
        told = []
        for where in (one.window.inside, ~one.window.inside):
            ratio = float(before[0, where].mean() / left[0, where].mean())
            told.append(10.0 * np.log10(ratio) if int(where.sum()) >= _LEAST_PIXELS else np.nan)
        gains.setdefault((one.window.kind, one.best), []).append(told)
    return {key: tuple(np.nanmean(np.array(values), axis=0)) for key, values in gains.items()}  # type: ignore[misc]


def with_head(network: Gate) -> Gate:
    """Return the gate with a head that has learned nothing."""
    made = Gate(replace(network.config, change=True))
    made.load_state_dict(
        {name: value for name, value in network.state_dict().items() if not name.startswith("change.")}, strict=False
    )
    return made.eval().requires_grad_(requires_grad=False)


def table(before: Scores, after: Scores) -> str:
    lines = ["| change | quality | without the head: inside, outside | with it |", "|---|---|---|---|"]
    for key, (inside, outside) in before.items():
        kind, best = key
        lines.append(f"| {kind} | {'best' if best else 'standard'} | {inside:+.2f}, {outside:+.2f} | "
                     f"{after[key][0]:+.2f}, {after[key][1]:+.2f} |")  # fmt: skip
    return "\n".join(lines)


def add_heads(
    folders: Sequence[Path], data: Path, *, count: int = WINDOWS, judged: int = VALIDATION_WINDOWS, seed: int = 0
) -> None:  # fmt: skip
    """Give the gates in some folders a head, and tell it in their cards.

    Parameters
    ----------
    folders
        With weights and card; a head that is there is trained anew.
    data
        With cubes/ and srf/.
    count, judged
        Windows that train and that validate.
    seed
        Of the head and of its patches.
    """
    made: dict[str, list[Window]] = {}
    start = time.perf_counter()
    for folder in folders:
        loaded = load_weights(folder / WEIGHTS_FILE)
        if not isinstance(loaded.network, Gate):
            raise SystemExit(f"{folder} holds no gate.")
        torch.manual_seed(seed)
        network = with_head(loaded.network)
        if not made:
            # Experts know nothing of the gate that weighs them.
            for number, (split, wanted) in enumerate((("train", count), ("validation", judged))):
                made[split] = list(windows(split, data, wanted, 5 + number, network))
                print(f"{len(made[split])} windows of {split}, {time.perf_counter() - start:.0f} s", flush=True)
        judging = asked(network, made["validation"])
        before = scores(network, judging)
        train(network, asked(network, made["train"]), seed)
        told = table(before, scores(network, judging))
        record = {"windows": len(made["train"]), "steps": STEPS, "learning_rate": RATE, "seed": seed}
        size = sum(parameter.numel() for parameter in network.parameters())
        training = loaded.header.training | {"change_head": record, "parameters": size}
        header = replace(loaded.header, config=network.config.to_dict(), training=training)
        save_weights(folder / WEIGHTS_FILE, network, header, dtype="bf16")
        also = training.get("also")
        seen = f" (of which the gate was trained on {', '.join(also)})" if also else ""
        card = folder / CARD_FILE
        text = card.read_text(encoding="utf-8").split("\n## Head for changed ground")[0].rstrip()
        text = text.replace(f"{loaded.header.training.get('parameters')} parameters", f"{size} parameters", 1)
        text += (
            "\n\n## Head for changed ground\n\nTrained behind the gate (`benchmarks/train_zoo/change_head.py`) on "
            f"{len(made['train'])} windows of the training sites with simulated changes, {STEPS} steps. Windows of the "
            f"validation sites{seen}, over the estimate, dB:\n\n{told}\n"
        )
        card.write_text(text, encoding="utf-8")
        print(f"{folder}\n{told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("weights", type=Path, nargs="+", help="folders that hold weights.safetensors and card.md")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--validation-windows", type=int, default=VALIDATION_WINDOWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with torch.no_grad():
        add_heads(given.weights, given.data, count=given.windows, judged=given.validation_windows, seed=given.seed)


if __name__ == "__main__":
    main()
