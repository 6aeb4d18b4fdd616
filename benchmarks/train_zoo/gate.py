"""Train ssrfn and ssrfn-lite on the training sites of sites.toml, validated on its validation sites, no test sites.

    python benchmarks/train_zoo/gate.py --data ../shared/data --cache CACHE --output models
    python benchmarks/train_zoo/gate.py --methods ssrfn --seeds 0 1 2 --cache CACHE --output models

Every cube keeps its own bands outside the absorption windows; windows get random bands, noise, blur, shift and gain,
two in five those of two sensors' models. Half of the patches come from whole cubes (whole_cubes.py). Experts of all are
kept in ``--cache``: what was worked out once is read back. Behind the gate a head for changed ground is trained
(change_head.py). ``ssrfn`` is trained narrower than it is used, and widened exactly (widening.py). Weights, log and
``card.md`` go to a folder of ``--output`` for each method; of several seeds the first is kept as it, the others beside
it, and the card tells all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from change_head import add_heads
from quality_scenes import FloatCube, read_cube, sentinel2_responses
from whole_cubes import MixedTask, whole_cubes
from widening import widened

from hsfuse._version import __version__
from hsfuse.band_selection.windows import window_of
from hsfuse.degrade import Psf
from hsfuse.fusion.methods.ssrfn import EVERYDAY, LITE, RECIPE
from hsfuse.fusion.methods.ssrfn.augmentation import DISPLACED
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.nets.zoo import CARD_FILE, WEIGHTS_FILE
from hsfuse.log import get_logger
from hsfuse.sensors.sentinel2 import BANDS_ALL, table_responses
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.training.source import Sampling

SITES = Path(__file__).resolve().parents[1] / "sites.toml"
LEAST_SIDE_PX = 40
HALVED_FROM_PX = 90
CONFIGS = {entry.name: GateConfig.from_dict(entry.network.settings) for entry in (EVERYDAY, LITE) if entry.network}
BATCH = POOL = 8
RATIOS = (3, 3, 3, 3, 2, 4)
"""What windows are degraded by, as often as it stands here."""
NARROW = {"ssrfn": 8}
"""Widths that methods are trained with where it is not their own, and widened from behind it. Trained 16 wide,
``ssrfn`` gained 0.05 dB less; its compiled kernels serve multiples of 16."""
WIDENING_NOISE = 0.02
"""By which what is read from copies of a channel differs where a widened network learns on."""
_log = get_logger(__name__)


def scenes(data: Path, split: str) -> Iterator[tuple[str, FloatCube, BandTable]]:
    table = tomllib.loads(SITES.read_text())
    for names in table[split].values():
        for name in names:
            cube, bands = read_cube(data / "cubes" / f"{name}.npz")
            clear = [k for k, nm in enumerate(bands.centre_nm) if window_of(float(nm)) is None]
            cube, bands = np.ascontiguousarray(cube[clear]), bands.take(clear)
            if min(cube.shape[1:]) >= LEAST_SIDE_PX:
                yield name, cube, bands
            if min(cube.shape[1:]) >= HALVED_FROM_PX:
                rows, cols = (size // 2 * 2 for size in cube.shape[1:])
                half = cube[:, :rows, :cols].reshape(len(cube), rows // 2, 2, cols // 2, 2).mean(axis=(2, 4))
                yield f"{name}, halved", half.astype(np.float32), bands


def guides(number: int, responses: list[SpectralResponse]) -> list[tuple[str, list[SpectralResponse]]]:
    """The four bands of 10 m, and for some cubes all ten or the near infrared alone."""
    found = [("4 MSI bands", responses)]
    if number % 4 == 0:
        found.append(("10 MSI bands", list(table_responses("Sentinel-2A", BANDS_ALL))))
    if number % 4 == 2:
        found.append(("1 MSI band", responses[-1:]))
    return found


def entries(data: Path, split: str, role: Literal["training", "validation"]) -> list[SceneEntry]:
    found, responses = [], sentinel2_responses(data)
    for number, (name, cube, bands) in enumerate(scenes(data, split)):
        for label, wanted in guides(number, responses) if role == "training" else [("", responses)]:
            weights = srf_weights(bands, wanted)
            if (weights.sum(axis=1) <= 0).any():
                continue
            scene = TrainingScene(
                f"{name}, {label}" if label else name, cube, np.ones(cube.shape[1:], bool), None, (weights,), Psf(1.0),
                "mixed", bands,
            )  # fmt: skip
            found.append(SceneEntry.of(scene, role))
    return found


def widening_told(trained: int, width: int) -> list[str]:
    if trained == width:
        return []
    return [f"It was trained {trained} wide and widened to {width} without a change of what it computes "
            f"(`benchmarks/train_zoo/widening.py`): every channel is there {width // trained} times, and what reads it "
            "takes a part from each.", ""]  # fmt: skip


def card(header: NetworkHeader, command: str, seeds: Sequence[dict[str, Any]]) -> str:
    record = header.training
    lines = [
        f"# {header.name}", "",
        f"{record['parameters']} parameters ({json.dumps(header.config)}); any bands (8 and more), any MSI, any ratio. "
        "It weighs experts that every scene teaches itself, behind `glp` and the maximum a posteriori step; half of "
        "the parameters serve pairs that are displaced locally.", "",
        *widening_told(record["trained_width"], header.config["width"]),
        "## Training", "",
        f"- command: `{command}`",
        f"- finished {record['finished']} on {record['device']}: {record['steps']} steps (best: {record['best_step']}) "
        f"in {record['training_core_seconds'] / 60:.1f} minutes of processor time; windows and experts of both methods "
        f"and all seeds are the same",
        f"- loop: {json.dumps(record['loop'])}",
        f"- half of the patches from {record['whole_cubes']} pairs of whole cubes of these sites "
        f"(`benchmarks/train_zoo/whole_cubes.py`), half from {record['windows']} windows, "
        f"{record['displaced_windows']} of them displaced locally, of "
        f"{len(record['scenes'])} scenes (training sites of `benchmarks/sites.toml`): {'; '.join(record['scenes'])}",
        "", "Windows and whole cubes of the validation sites, over the maximum a posteriori estimate, dB:", "",
        "| seed | all experts | without non-local ones | worst |", "|---|---|---|---|",
    ]  # fmt: skip
    for each in seeds:
        scores = each["validation"]
        lines.append(f"| {each['seed']} | {scores['gain_db']:+.3f} | {scores['gain_without_db']:+.3f} "
                     f"| {scores['worst_gain_db']:+.2f} |")  # fmt: skip
    return "\n".join([*lines, "", "Whole cubes and test sites: docs/quality-benchmark.md.", ""])


def trained(task: MixedTask, given: argparse.Namespace, seed: int, folder: Path) -> tuple[Gate, dict[str, Any]]:
    """Train one network; return it with its record."""
    settings = LoopSettings(
        learning_rate=given.lr, weight_decay=RECIPE["weight_decay"], ema=RECIPE["ema"], warmup_steps=RECIPE["warmup"],
        steps=given.steps, validate_every=max(given.steps // 10, 40), micro_batch=8,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    # What a training found is not lost with what comes after it.
    checkpoint = folder / "checkpoint.safetensors"
    start = time.process_time()
    # Whatever was drawn for the windows, or was read instead.
    torch.manual_seed(seed)
    result = train(task, settings, files=TrainingFiles(checkpoint, folder / "log.csv"))
    checkpoint.unlink(missing_ok=True)
    windows = task.windows
    network = result.network
    if not isinstance(network, Gate):
        raise SystemExit("The training returned another network than a gate.")
    return network, {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": task.base, "start": None if given.start is None else str(given.start),
        "scenes": [entry.name for entry in task.setup.entries if entry.role == "training"],
        "windows": len(windows), "whole_cubes": len(task.whole),
        "displaced_windows": sum(int(w.values[DISPLACED].item()) for w in windows),
        "loop": {"learning_rate": given.lr, "weight_decay": settings.weight_decay, "ema": settings.ema,
                 "patch": given.patch, "batch": BATCH},
        "steps": result.steps, "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "training_core_seconds": round(time.process_time() - start, 1),
        "device": f"{platform.machine()}, {given.threads} thread(s)", "validation": result.best.to_json(),
        "validation_before": result.first.to_json(), "history": list(result.history),
    }  # fmt: skip


def config_of(method: str, given: argparse.Namespace) -> GateConfig:
    """Return the shape that is trained."""
    changes = {name: getattr(given, name) for name in ("width", "blocks", "mamba", "backbone")}
    changes = {"width": NARROW.get(method)} | {name: value for name, value in changes.items() if value is not None}
    changes = {name: value for name, value in changes.items() if value is not None}
    plain = replace(CONFIGS[method], copies=1, displaced_copies=1, change=False)
    return replace(plain, correction=not given.no_correction, **changes)


def shipped(network: Gate, width: int) -> Gate:
    """Return a gate as wide as it is used, where whole copies of its channels fill that."""
    config = network.config
    return widened(network, replace(config, width=width)) if width % config.width == 0 else network


def started(config: GateConfig, start: Path | None) -> Gate:
    """A gate with the weights of ``start``, widened where these are narrower."""
    if start is None:
        return Gate(config)
    given = load_weights(start).network
    if not isinstance(given, Gate):
        raise SystemExit(f"{start} holds no gate.")
    if given.config.width < config.width:
        return widened(given, config, WIDENING_NOISE)
    # A head for changed ground is trained anew, behind all else.
    known = {name: value for name, value in given.state_dict().items() if not name.startswith("change.")}
    network = Gate(replace(config, copies=given.config.copies, displaced_copies=given.config.displaced_copies))
    network.load_state_dict(known)
    return network


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for experts of windows")
    parser.add_argument("--methods", nargs="*", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the network")
    parser.add_argument("--rounds", type=int, default=34, help="eight windows each")
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--patch", type=int, default=36)
    parser.add_argument("--validation-windows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from, of the same shape or narrower")
    parser.add_argument("--width", type=int, help="default: that of the method")
    parser.add_argument("--blocks", type=int, help="the same")
    parser.add_argument("--backbone", choices=["plain", "ssrfn"], help="the same")
    parser.add_argument("--mamba", choices=["mamba2", "none"], help="the same")
    parser.add_argument("--no-correction", action="store_true", help="without the cyclic correction (ablation)")
    parser.add_argument("--windows-seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="only work out the experts")
    parser.add_argument("--output", type=Path, required=True, help="folder for a folder of each method")
    return parser.parse_args()


def main() -> None:
    given = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    sampling = Sampling(
        ratios=RATIOS, patch_px=given.patch, window_px=given.window, batch=BATCH, pool=POOL,
        validation_windows=given.validation_windows, seed=given.windows_seed, rounds=given.rounds,
    )  # fmt: skip
    nothing = np.zeros(0)
    both = [*entries(given.data, "train", "training"), *entries(given.data, "validation", "validation")]
    setup, first = TaskSetup(both, sampling, nothing, nothing, cache=given.cache), None
    words = [f"--{key.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
             for key, value in vars(given).items()
             if value not in (None, False) and key not in ("data", "output", "cache", "prepare")]  # fmt: skip
    command = "python benchmarks/train_zoo/gate.py " + " ".join(words).replace(
        "--no-correction True", "--no-correction"
    )
    for method in given.methods:
        done: list[dict[str, Any]] = []
        for number, seed in enumerate(given.seeds):
            torch.manual_seed(seed)
            network = started(config_of(method, given), given.start)
            task = MixedTask(network, setup, () if first is None else first.whole)
            if first is None:
                first = task
                task.start()
                task.whole = list(whole_cubes("train", given.data, given.cache, network))
                judging = whole_cubes("validation", given.data, given.cache, network, seeds=(0,))
                task.validation_pairs = [*task.validation_pairs, *judging]
            else:
                # Windows are the same for all; each step's patches follow from its number.
                task.source, task.validation_pairs = first.source, first.validation_pairs
            if given.prepare:
                return
            folder = given.output / (method if number == 0 else f"{method}-seed{seed}")
            network, record = trained(task, given, seed, folder)
            wide = shipped(network, CONFIGS[method].width)
            record |= {"network": method, "seed": seed, "trained_width": network.config.width,
                       "parameters": sum(p.numel() for p in wide.parameters())}  # fmt: skip
            done.append(record)
            header = NetworkHeader(
                method, ARCHITECTURE, wide.config.to_dict(), (), (), (), base=task.base, training=record
            )  # fmt: skip
            save_weights(folder / WEIGHTS_FILE, wide, header, dtype="bf16")
            (folder / CARD_FILE).write_text(card(header, command, [record]), encoding="utf-8")
        kept = given.output / method
        text = card(load_weights(kept / WEIGHTS_FILE).header, command, done)
        (kept / CARD_FILE).write_text(text, encoding="utf-8")
        print(text)
    with torch.no_grad():
        add_heads([given.output / method for method in given.methods], given.data)


if __name__ == "__main__":
    main()
