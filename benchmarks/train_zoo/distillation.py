"""Does CSAKD's student learn more from a teacher than alone? Equal steps, three seeds, sites that nobody trained on.

    python benchmarks/train_zoo/distillation.py --data ../shared/data --steps 150 --output distillation

For every seed the student of ``csakd-lite`` is trained twice from the same weights on the same patches: alone, and
beside its teacher. Scores are those of windows of the validation sites of ``benchmarks/sites.toml``, with all of the
correction; the teacher's are given too. ``--bases bicubic`` has the networks learn everything that the base estimate
knows. Writes ``distillation.json`` and a section for the card, ``distillation.md``; both after every seed, so that a
run that is ended early leaves what it has. As ``models/csakd-lite/notes.md`` the section becomes part of the card
(``protocol.py --cards``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from protocol import training_data

from hsfuse.config import TrainConfig
from hsfuse.fusion.methods.csakd.network import Csakd
from hsfuse.fusion.methods.csakd.task import DistillationTask, make_task
from hsfuse.fusion.nets.pair_network import PairNetwork, n_parameters
from hsfuse.progress import SilentProgress
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import Trainer
from hsfuse.training.pair_task import PairTask
from hsfuse.training.run_log import RunLog
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.training.source import Sampling
from hsfuse.training.validation import ValidationScores, validate
from hsfuse.workflows.training.start import start_network
from hsfuse.workflows.training.training_data import TrainingData

METHOD = "csakd-lite"
RATIOS, PATCH_PX, WINDOW_PX, BATCH, POOL, GENERATED_SHARE = (3, 4), 48, 96, 2, 8, 0.3
RATE, WARMUP, AVERAGE, WINDOWS = 5e-4, 20, 0.98, 16
KINDS = {"alone": "student alone", "distilled": "student distilled", "teacher": "teacher"}
STARTS = {"estimate": "`glp`", "bicubic": "bicubic"}


class LastStepTrainer(Trainer):
    """A training that keeps its last weights: how far so many steps lead, not which of them was best."""

    def _validate(self, log: RunLog, row: dict[str, float]) -> None:
        self._state.best = None
        super()._validate(log, row)


def task_of(data: TrainingData, seed: int, base: str, distil: bool) -> PairTask:
    """Student of the small shape, alike for both trainings of a seed."""
    config = TrainConfig.resolve(
        None, method=METHOD, seed=seed, steps=1, network_settings=f"base={base},distil={distil}".lower()
    )
    start = start_network(config, data, None)
    sampling = Sampling(
        ratios=RATIOS, patch_px=PATCH_PX, window_px=WINDOW_PX, batch=BATCH, pool=POOL, validation_windows=WINDOWS,
        drawn_share=GENERATED_SHARE, seed=seed,
    )  # fmt: skip
    setup = TaskSetup(data.entries, sampling, data.bands.centre_nm, data.bands.fwhm_nm)
    if not isinstance(start.network, Csakd):
        raise SystemExit(f"{METHOD} is another network now.")
    return make_task(start.network.train(), setup)


def trained(task: PairTask, steps: int, seed: int) -> float:
    """Train, leave the averaged weights of the last step in the task; return processor minutes."""
    _ = task.validation_pairs
    settings = LoopSettings(
        optimizer="adamw", learning_rate=RATE, warmup_steps=WARMUP, ema=AVERAGE, micro_batch=BATCH, steps=steps,
        validate_every=steps,
    )  # fmt: skip
    begun = time.process_time()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            LastStepTrainer(task, settings, TrainingFiles(), Team(), "cpu").run(SilentProgress())
    finally:
        task.close()
    return (time.process_time() - begun) / 60.0


def scores(task: PairTask, network: PairNetwork) -> ValidationScores:
    return validate(lambda pair: task.call(network, pair.batch())[0], task.baseline, task.validation_pairs)


def measured(data: TrainingData, seed: int, base: str, steps: int) -> list[dict[str, Any]]:
    """Rows of both students and the teacher of one seed; their windows are drawn once."""
    rows, before = [], None
    for distil in (False, True):
        task = task_of(data, seed, base, distil)
        if before is not None:
            task.source, task.validation_pairs = before.source, before.validation_pairs
        before = task
        minutes = trained(task, steps, seed)
        networks: dict[str, PairNetwork] = {"distilled" if distil else "alone": task.network}
        if isinstance(task, DistillationTask):
            networks["teacher"] = task.teacher
        for kind, network in networks.items():
            row = {
                "base": base, "seed": seed, "kind": kind, "parameters": n_parameters(network),
                "core_minutes": round(minutes, 2), **scores(task, network).to_json(),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def table(record: dict[str, Any]) -> str:
    """Markdown: what was done, every seed and the mean, and in one sentence who wins."""
    lines = [
        "## Distilled or alone", "",
        f"    {record['command']}", "",
        f"{record['date']}, {record['device']}, torch {record['torch']}. The student trained alone and beside its "
        "teacher,",
        f"from the same weights on the same patches, {record['steps']} steps each. PSNR in dB of {record['windows']} "
        "windows of the validation",
        "sites, drawn anew for each seed, with all of the correction. The teacher's minutes are those of both.", "",
    ]  # fmt: skip
    for base in dict.fromkeys(row["base"] for row in record["rows"]):
        of = [row for row in record["rows"] if row["base"] == base]
        seeds = list(dict.fromkeys(row["seed"] for row in of))
        lines += [
            f"`base={base}`:", "",
            f"| | M parameters | core-minutes | {' | '.join(f'seed {n}' for n in seeds)} | mean PSNR | mean SAM |",
            "|---|---|---|" + "---|" * (len(seeds) + 2),
        ]  # fmt: skip
        mean = {}
        for kind, name in KINDS.items():
            own = [row for row in of if row["kind"] == kind]
            mean[kind] = statistics.fmean(row["psnr_db"] for row in own)
            sam = statistics.fmean(row["sam_deg"] for row in own)
            each = " | ".join(f"{row['psnr_db']:.3f}" for row in own)
            size = own[0]["parameters"] / 1e6
            minutes = statistics.fmean(row["core_minutes"] for row in own)
            lines.append(f"| {name} | {size:.2f} | {minutes:.1f} | {each} | {mean[kind]:.3f} dB | {sam:.3f} deg |")
        first = [row for row in of if row["kind"] == "alone"]
        each = " | ".join(f"{row['base_psnr_db']:.3f}" for row in first)
        psnr, sam = (statistics.fmean(row[f"base_{score}"] for row in first) for score in ("psnr_db", "sam_deg"))
        lines.append(f"| {STARTS[base]}, what they start from | | | {each} | {psnr:.3f} dB | {sam:.3f} deg |")
        gain = mean["distilled"] - mean["alone"]
        won = sum(
            d["psnr_db"] > a["psnr_db"]
            for d, a in zip(*([r for r in of if r["kind"] == k] for k in ("distilled", "alone")), strict=True)
        )
        verb = "beats" if gain > 0 else "does not beat"
        lines += ["", f"The distilled student {verb} the student alone: {gain:+.3f} dB on average, "
                  f"ahead with {won} of {len(seeds)} seeds.", ""]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--bases", nargs="*", default=["estimate", "bicubic"])
    parser.add_argument("--output", type=Path, required=True, help="folder that gets distillation.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = training_data(given.data, given.seeds[0])
    sides = {role: [e.name for e in data.entries if e.role == role] for role in ("training", "validation")}
    record = {
        "command": f"python benchmarks/train_zoo/distillation.py --steps {given.steps} --bases {' '.join(given.bases)} "
        f"--seeds {' '.join(map(str, given.seeds))}",
        "steps": given.steps, "date": datetime.now(UTC).date().isoformat(), "device": f"one core, {platform.machine()}",
        "torch": torch.__version__, "scenes": sides["training"], "validation_scenes": sides["validation"],
        "windows": WINDOWS, "rows": [],
    }  # fmt: skip
    given.output.mkdir(parents=True, exist_ok=True)
    for base, seed in itertools.product(given.bases, given.seeds):
        record["rows"] += measured(data, seed, base, given.steps)
        (given.output / "distillation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (given.output / "distillation.md").write_text(table(record), encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
