"""Train ssrfn-lite or ssrfn on the training sites of sites.toml, validated on its validation sites; without test sites.

    python benchmarks/train_zoo/gate.py --data ../shared/data --cache CACHE --steps 1500 --output models/ssrfn-lite
    python benchmarks/train_zoo/gate.py --method ssrfn --cache CACHE --steps 1500 --output models/ssrfn

Every cube keeps its own bands outside the absorption windows, and is there once more without short-wave infrared;
windows get random bands, noise, blur, shift and gain.
Experts of every window are kept in ``--cache``: what was worked out once is read back. Weights, log and ``card.md`` go
to ``--output``.
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
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quality_scenes import FloatCube, read_cube, sentinel2_responses

from hsfuse._version import __version__
from hsfuse.band_selection.windows import window_of
from hsfuse.degrade import Psf
from hsfuse.fusion.methods.ssrfn import RECIPE
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.task import GateTask
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
SILICON_NM, SHORTWAVE_NM = 1000.0, 1300.0
"""Where cameras without short-wave infrared end, and beyond what a cube has it."""
VISIBLE = "up to 1000 nm"
BACKBONES: dict[str, Literal["plain", "ssrfn"]] = {"ssrfn-lite": "plain", "ssrfn": "ssrfn"}
WIDTHS = {"ssrfn-lite": 16, "ssrfn": 8}
RATIOS = (3, 3, 3, 3, 2, 4)
"""What windows are degraded by, as often as it stands here."""
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
                if bands.centre_nm.max() > SHORTWAVE_NM:
                    near = [k for k, nm in enumerate(bands.centre_nm) if nm <= SILICON_NM]
                    yield f"{name}, {VISIBLE}", np.ascontiguousarray(cube[near]), bands.take(near)
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
    found, responses, number = [], sentinel2_responses(data), 0
    for name, cube, bands in scenes(data, split):
        whole = not name.endswith(VISIBLE)
        for label, wanted in guides(number, responses) if role == "training" and whole else [("", responses)]:
            weights = srf_weights(bands, wanted)
            if (weights.sum(axis=1) <= 0).any():
                continue
            scene = TrainingScene(
                f"{name}, {label}" if label else name, cube, np.ones(cube.shape[1:], bool), None, (weights,), Psf(1.0),
                "moderate", bands,
            )  # fmt: skip
            found.append(SceneEntry.of(scene, role))
        number += whole
    return found


def card(header: NetworkHeader, command: str) -> str:
    record = header.training
    scores = record["validation"]
    return "\n".join([
        f"# {header.name}", "",
        f"{record['parameters']} parameters ({json.dumps(header.config)}); any bands (8 and more), any MSI, any ratio. "
        "It weighs experts that every scene teaches itself, behind `glp` and the maximum a posteriori step.", "",
        "## Training", "",
        f"- command: `{command}`",
        f"- finished {record['finished']} on {record['device']}: {record['steps']} steps (best: {record['best_step']}) "
        f"in {record['training_seconds'] / 60:.1f} minutes, windows and experts {record['preparing_seconds'] / 60:.1f} "
        "minutes",
        f"- loop: {json.dumps(record['loop'])}",
        f"- {record['windows']} windows of {len(record['scenes'])} scenes (training sites of `benchmarks/sites.toml`): "
        f"{'; '.join(record['scenes'])}",
        f"- validation sites: {scores['gain_db']:+.2f} dB over the maximum a posteriori estimate, "
        f"{scores['gain_without_db']:+.2f} dB without non-local experts, worst window {scores['worst_gain_db']:+.2f}",
        "", "Scores on test sites: docs/quality-benchmark.md.", "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for experts of windows")
    parser.add_argument("--rounds", type=int, default=36, help="eight windows each")
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--patch", type=int, default=36)
    parser.add_argument("--validation-windows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from, of the same shape")
    parser.add_argument("--width", type=int, help="default: that of the method")
    parser.add_argument("--blocks", type=int, default=GateConfig().blocks)
    parser.add_argument("--method", choices=sorted(BACKBONES), default="ssrfn-lite")
    parser.add_argument("--mamba", choices=["mamba2", "none"], default="mamba2")
    parser.add_argument("--seed", type=int, default=0, help="of the network and the patches")
    parser.add_argument("--windows-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="only work out the experts")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, log and card")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    if given.width is None:
        given.width = WIDTHS[given.method]
    config = GateConfig(width=given.width, blocks=given.blocks, backbone=BACKBONES[given.method], mamba=given.mamba)
    network = Gate(config)
    if given.start is not None:
        network.load_state_dict(load_weights(given.start).network.state_dict())
    sampling = Sampling(
        ratios=RATIOS, patch_px=given.patch, window_px=given.window, batch=8, pool=8,
        validation_windows=given.validation_windows, seed=given.windows_seed, rounds=given.rounds,
    )  # fmt: skip
    training = entries(given.data, "train", "training")
    nothing = np.zeros(0)
    setup = TaskSetup(
        [*training, *entries(given.data, "validation", "validation")], sampling, nothing, nothing, cache=given.cache
    )  # fmt: skip
    task, start = GateTask(network, setup), time.perf_counter()
    task.start()
    preparing = time.perf_counter() - start
    _log.info("Windows are ready after %.0f s.", preparing)
    if given.prepare:
        return
    settings = LoopSettings(
        learning_rate=given.lr, weight_decay=RECIPE["weight_decay"], ema=RECIPE["ema"], warmup_steps=RECIPE["warmup"],
        steps=given.steps, validate_every=max(given.steps // 15, 40), micro_batch=8,
    )  # fmt: skip
    given.output.mkdir(parents=True, exist_ok=True)
    # What a training found is not lost with what comes after it.
    checkpoint = given.output / "checkpoint.safetensors"
    result = train(task, settings, files=TrainingFiles(checkpoint, given.output / "log.csv"))
    record: dict[str, Any] = {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "network": given.method, "base": task.base, "seed": given.seed,
        "start": None if given.start is None else str(given.start),
        "parameters": sum(p.numel() for p in network.parameters()), "scenes": [entry.name for entry in training],
        "windows": 8 * given.rounds, "loop": {"learning_rate": given.lr, "weight_decay": settings.weight_decay,
                                              "ema": settings.ema, "patch": given.patch, "batch": 8},
        "steps": result.steps, "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "preparing_seconds": round(preparing, 1), "device": f"{platform.machine()}, {given.threads} thread(s)",
        "validation": result.best.to_json(), "validation_before": result.first.to_json(),
        "history": list(result.history),
    }  # fmt: skip
    header = NetworkHeader(
        given.method, ARCHITECTURE, config.to_dict(), (), (), (), base=task.base, training=record
    )  # fmt: skip
    save_weights(given.output / WEIGHTS_FILE, result.network, header, dtype="bf16")
    checkpoint.unlink(missing_ok=True)
    words = [f"--{key.replace('_', '-')} {value}" for key, value in vars(given).items()
             if value is not None and key not in ("data", "output", "cache", "prepare")]  # fmt: skip
    text = card(header, "python benchmarks/train_zoo/gate.py " + " ".join(words))
    (given.output / CARD_FILE).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
