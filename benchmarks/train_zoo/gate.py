"""Train ssrfn and ssrfn-lite on the training sites of sites.toml, validated on its validation sites, no test sites.

    python benchmarks/train_zoo/gate.py --data ../shared/data --cache CACHE --output models
    python benchmarks/train_zoo/gate.py --methods ssrfn --seeds 0 1 2 --cache CACHE --output models
    python benchmarks/train_zoo/gate.py --also indian_pines beltsville --cache CACHE --output trials

With ``--also`` some of the validation sites train as well, the others validate: what more sites bring.

Every cube keeps its own bands outside the absorption windows; windows get random bands, noise, blur, shift and gain,
two in five those of two sensors' models. Most patches come from whole cubes, two in five of those
without the short-wave infrared (gate_pairs.py, whole_cubes.py). Experts of all are
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
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from change_head import add_heads
from gate_pairs import SHORT_WAVES_SHARE, VALIDATION_SITES, WHOLE_SHARE, Learned, judging, learned, task_setup
from whole_cubes import MixedTask
from widening import widened

from hsfuse._version import __version__
from hsfuse.fusion.methods.ssrfn import EVERYDAY, LITE, RECIPE
from hsfuse.fusion.methods.ssrfn.augmentation import DISPLACED
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.nets.zoo import CARD_FILE, WEIGHTS_FILE
from hsfuse.log import get_logger
from hsfuse.training.loop import train
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.training.source import Sampling

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


def widening_told(trained: int, width: int) -> list[str]:
    if trained == width:
        return []
    return [f"It was trained {trained} wide and widened to {width} without a change of what it computes "
            f"(`benchmarks/train_zoo/widening.py`): every channel is there {width // trained} times, and what reads it "
            "takes a part from each.", ""]  # fmt: skip


def sites_told(also: Sequence[str]) -> str:
    if not also:
        return "training sites"
    return f"training sites, and of the validation sites {', '.join(also)},"


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
        f"- {record['windows']} windows ({record['displaced_windows']} of them displaced locally), "
        f"{record['whole_cubes']} pairs of whole cubes (`benchmarks/train_zoo/whole_cubes.py`) and "
        f"{record['short_waves']} of these cut to 430 to 900 nm; {100 * (1 - WHOLE_SHARE - SHORT_WAVES_SHARE):.3g}, "
        f"{100 * WHOLE_SHARE:.3g} and {100 * SHORT_WAVES_SHARE:.3g} % of the patches come from these",
        f"- {len(record['scenes'])} scenes ({sites_told(record['also'])} of `benchmarks/sites.toml`): "
        f"{'; '.join(record['scenes'])}",
        "", f"Windows and whole cubes of the {'other ' if record['also'] else ''}validation sites, over the maximum a "
        "posteriori estimate, dB:", "",
        "| seed | all experts | those of standard | worst |", "|---|---|---|---|",
    ]  # fmt: skip
    for each in seeds:
        scores = each["validation"]
        lines.append(f"| {each['seed']} | {scores['gain_db']:+.3f} | {scores['gain_without_db']:+.3f} "
                     f"| {scores['worst_gain_db']:+.2f} |")  # fmt: skip
    return "\n".join([*lines, "", "Whole cubes and test sites: docs/quality-benchmark.md.", ""])


def trained(
    task: MixedTask, pairs: Learned, given: argparse.Namespace, seed: int, folder: Path
) -> tuple[Gate, dict[str, Any]]:  # fmt: skip
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
    network = result.network
    if not isinstance(network, Gate):
        raise SystemExit("The training returned another network than a gate.")
    return network, {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": task.base, "start": None if given.start is None else str(given.start),
        "scenes": pairs.scenes, "also": list(given.also), "windows": len(pairs.windows),
        "whole_cubes": len(pairs.whole), "short_waves": len(pairs.short),
        "displaced_windows": sum(int(w.values[DISPLACED].item()) for w in pairs.windows),
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
    parser.add_argument("--also", nargs="*", default=[], choices=VALIDATION_SITES, metavar="SITE",
                        help=f"validation sites that train as well, of {', '.join(VALIDATION_SITES)}")  # fmt: skip
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
    given = parser.parse_args()
    if set(given.also) == set(VALIDATION_SITES):
        parser.error("--also leaves no site to validate.")
    return given


def main() -> None:
    given = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    sampling = Sampling(
        ratios=RATIOS, patch_px=given.patch, window_px=given.window, batch=BATCH, pool=POOL,
        validation_windows=given.validation_windows, seed=given.windows_seed, rounds=given.rounds,
    )  # fmt: skip
    setup, first = task_setup(given.data, given.cache, sampling), None
    pairs = Learned((), (), ())
    words = [f"--{key.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
             for key, value in vars(given).items()
             if value not in (None, False, []) and key not in ("data", "output", "cache", "prepare")]  # fmt: skip
    command = "python benchmarks/train_zoo/gate.py " + " ".join(words).replace(
        "--no-correction True", "--no-correction"
    )
    for method in given.methods:
        done: list[dict[str, Any]] = []
        for number, seed in enumerate(given.seeds):
            torch.manual_seed(seed)
            network = started(config_of(method, given), given.start)
            task = MixedTask(network, setup)
            if first is None:
                first = task
                task.start()
                pairs = learned(task, given.data, given.cache, given.also)
                task.validation_pairs = judging(task, given.data, given.cache, network, given.also)
            # Windows are the same for all; each step's patches follow from its number.
            task.source, task.validation_pairs, task.kinds = first.source, first.validation_pairs, pairs.kinds
            if given.prepare:
                return
            folder = given.output / (method if number == 0 else f"{method}-seed{seed}")
            network, record = trained(task, pairs, given, seed, folder)
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
