"""Train every small network of the zoo alike: same scenes, same budget, same seed; write weights and model cards.

    python benchmarks/train_zoo/protocol.py --data ../shared/data --core-minutes 4 --output models

Scenes are the measured cubes of the sites that ``benchmarks/sites.toml`` keeps for training, and a few generated ones;
the figures of the cards are those of its validation sites. Test sites are never opened. The
budget is processor time of one core, so that a busy machine does not decide how far a network gets. Networks have
their own losses; everything else is equal. ``--seeds`` trains one network several times: of weights that are shipped,
the first seed is kept whatever the others bring, and the card gives their spread. What a card says beyond the record
inside the weights (comparisons that other benchmarks made) stands in ``notes.md`` beside them and outlives a new
training; ``--cards`` writes the cards again from both, without one.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from real_pairs import SITES

from hsfuse._version import __version__
from hsfuse.config import TrainConfig
from hsfuse.fusion.nets.header import NetworkHeader, read_header
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.nets.zoo import CARD_FILE, WEIGHTS_FILE
from hsfuse.fusion.registry import METHODS, network_entries
from hsfuse.grid import Slice2D
from hsfuse.progress import SilentProgress
from hsfuse.training.augment import Disturbance
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import ESTIMATE, FusionTask, TaskSetup
from hsfuse.training.loop import Trainer
from hsfuse.training.pairs import ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.training.run_log import RunLog
from hsfuse.training.scenes import SceneEntry
from hsfuse.training.settings import LoopSettings, TrainingFiles, TrainingResult
from hsfuse.training.source import Sampling
from hsfuse.workflows.training.start import start_network
from hsfuse.workflows.training.training_data import TrainingData, collect
from hsfuse.workflows.training.training_inputs import TrainingInput

NOTES_FILE = "notes.md"
RATIOS = (3, 4)
PATCH_PX, WINDOW_PX, BATCH, POOL = 48, 96, 2, 8
GENERATED, GENERATED_PX, GENERATED_SHARE = 12, 96, 0.3
RATE, WARMUP, AVERAGE, VALIDATION_WINDOWS = 5e-4, 20, 0.98, 16
SETTINGS = {
    "35 dB": Disturbance(hsi_snr_db=35.0, msi_snr_db=40.0, seed=1),
    "field": Disturbance(hsi_snr_db=30.0, msi_snr_db=35.0, psf_factor=1.1, shift_px=(0.14, -0.14), msi_gain=0.03,
                         msi_offset=0.01, seed=2),
}  # fmt: skip
"""What the windows of the validation sites are scored in, beside the mixed disturbances of the training."""


@dataclass(frozen=True)
class Trained:
    """A network after its training."""

    result: TrainingResult
    header: NetworkHeader
    task: FusionTask


class CoreTimeTrainer(Trainer):
    """A training whose budget, and whose falling rate, go by the processor time of this process."""

    core_seconds = 60.0
    _begun: float | None = None

    def _validate(self, log: RunLog, row: dict[str, float]) -> None:
        super()._validate(log, row)
        if self._state.step == 0:
            # What is kept has been trained: a start that corrects nothing would be no network.
            self._state.best = None

    def _used(self) -> float:
        if self._begun is None:
            self._begun = time.process_time()
        return (time.process_time() - self._begun) / self.core_seconds


def lite_networks() -> list[str]:
    """Small networks that are trained as they stand, without a stage of their own before."""
    return sorted(
        name
        for name, entry in network_entries()
        if name.endswith("-lite") and not entry.any_bands and not entry.takes_prior
    )


def training_data(data: Path, seed: int) -> TrainingData:
    """Cubes of the training and the validation sites, each on its side, and generated scenes."""
    table = tomllib.loads(SITES.read_text())
    own = set(table["bands"]["own"])

    def files(split: str) -> list[Path]:
        names = [name for site in table[split].values() for name in site if name not in own]
        return [path for name in names if (path := data / "cubes" / f"{name}.npz").is_file()]

    sides = {split: files(split) for split in ("train", "validation")}
    config = TrainConfig.resolve(None, generated=GENERATED, generated_px=GENERATED_PX, ratio="3,4", seed=seed, steps=1)
    inputs = [TrainingInput(path, ()) for paths in sides.values() for path in paths]
    found = collect(inputs, config, None, SilentProgress())
    judged = {path.stem for path in sides["validation"]}
    entries: list[SceneEntry] = []
    for entry in found.entries:
        if entry.name in judged:
            entries.append(replace(entry, role="validation"))
        elif min(entry.shape) >= PATCH_PX:
            entries.append(replace(entry, role="training"))
    return replace(found, entries=tuple(entries))


def train_one(
    name: str, data: TrainingData, core_minutes: float, seed: int, windows: FusionTask | None = None
) -> Trained:
    """Train a network and describe it; ``windows`` is an earlier task whose windows serve again."""
    config = TrainConfig.resolve(None, method=name, seed=seed, steps=1)
    start = start_network(config, data, None)
    sampling = Sampling(
        ratios=RATIOS, patch_px=PATCH_PX, window_px=WINDOW_PX, batch=BATCH, pool=POOL,
        validation_windows=VALIDATION_WINDOWS, drawn_share=GENERATED_SHARE, seed=seed,
    )  # fmt: skip
    setup = TaskSetup(data.entries, sampling, data.bands.centre_nm, data.bands.fwhm_nm)
    make = start.entry.task
    if make is None:
        raise SystemExit(f"{name} is not trained.")
    task = make(start.network.train(), setup)
    if windows is not None:
        # Of one seed all networks draw the same windows, and their base estimates are the same too.
        task.source, task.validation_pairs = windows.source, windows.validation_pairs
    _ = task.validation_pairs
    settings = LoopSettings(
        optimizer="adamw", learning_rate=RATE, warmup_steps=WARMUP, ema=AVERAGE, micro_batch=BATCH, steps=1_000_000,
        validate_every=1_000_000,
    )  # fmt: skip
    trainer = CoreTimeTrainer(task, settings, TrainingFiles(), Team(), "cpu")
    trainer.core_seconds = 60.0 * core_minutes
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            result = trainer.run(SilentProgress())
    finally:
        task.close()
    record = {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": "zoo", "protocol": "benchmarks/train_zoo/protocol.py", "core_minutes": core_minutes, "seed": seed,
        "network": name, "parameters": start.n_parameters, "base": task.base, "ratios": list(RATIOS),
        "scenes": [entry.name for entry in data.entries if entry.role == "training"],
        "validation_scenes": [entry.name for entry in data.entries if entry.role == "validation"],
        "steps": result.steps, "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "device": platform.machine(), "processes": 1, "validation": result.best.to_json(),
        "validation_before": result.first.to_json(), "history": list(result.history),
        "gains_db": {setting: gains(task, pairs) for setting, pairs in scored_windows(task, data).items()},
    }  # fmt: skip
    header = NetworkHeader(
        name=name, architecture=start.entry.architecture, config=start.settings,
        centre_nm=tuple(map(float, data.bands.centre_nm)), fwhm_nm=tuple(map(float, data.bands.fwhm_nm)),
        ratios=RATIOS, msi_bands=data.msi_bands, n_msi=len(data.msi_bands), base=task.base, training=record,
    )  # fmt: skip
    return Trained(result, header, task)


def scored_windows(task: FusionTask, data: TrainingData) -> dict[str, list[ReducedPair]]:
    """The largest cube of every validation site, at all ratios, in each of the settings."""
    sites = tomllib.loads(SITES.read_text())["validation"].values()
    entries = {entry.name: entry for entry in data.entries if entry.role == "validation"}
    reducer = Reducer(data.bands.centre_nm, data.bands.fwhm_nm)
    found: dict[str, list[ReducedPair]] = {setting: [] for setting in SETTINGS}
    for names in sites:
        largest = max((entries[name] for name in names if name in entries), key=lambda entry: min(entry.shape))
        scene = largest.load()
        for ratio in RATIOS:
            rows, cols = (min(size, WINDOW_PX) // ratio * ratio for size in scene.valid.shape)
            for setting, disturbance in SETTINGS.items():
                pair = reducer.make(scene, Slice2D(0, rows, 0, cols), ratio, disturbance)
                found[setting].append(task.prepare(pair))
    return found


@torch.no_grad()
def gains(task: FusionTask, pairs: Sequence[ReducedPair]) -> tuple[float, float]:
    """Mean gain over the base estimate, dB: with all of the correction, and with the best share of it in each band."""
    found = []
    for pair in pairs:
        missing = pair.target - pair.images[ESTIMATE]
        change = task.predict(pair) - pair.images[ESTIMATE]
        share = (missing * change).sum(dim=(1, 2)) / change.square().sum(dim=(1, 2)).clamp(min=1e-20)
        before, *after = (
            error.square().mean(dim=(1, 2))
            for error in (missing, missing - change, missing - share.clamp(0.0, 1.0)[:, None, None] * change)
        )
        found.append([float(10.0 * (before / left).log10().mean()) for left in after])
    whole, best = np.mean(found, axis=0)
    return float(whole), float(best)


def write_card(folder: Path) -> None:
    """Write the card of the weights in a folder, with the notes beside them."""
    notes = folder / NOTES_FILE
    said = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    (folder / CARD_FILE).write_text(card(read_header(folder / WEIGHTS_FILE), said), encoding="utf-8")


def card(header: NetworkHeader, notes: str = "") -> str:
    """Render the model card; ``notes`` is Markdown with headings of its own, put before the limits."""
    record, name = header.training, header.name
    spread = record.get("gain_db_by_seed", [])
    entry = METHODS.get(name)
    best, first = record["validation"], record["validation_before"]
    lines = [
        f"# {name}", "",
        f"{entry.summary}. {entry.reference}. Written anew from its publication, without code of its authors.", "",
        f"{record['parameters'] / 1e6:.2f} M parameters, bf16, {len(header.centre_nm)} bands, "
        f"{min(header.centre_nm):.0f} to {max(header.centre_nm):.0f} nm,",
        f"Sentinel-2 bands {', '.join(header.msi_bands)}, ratios {' and '.join(map(str, header.ratios))}.", "",
        f"Unlike the published network it corrects the estimate of `{header.base}`, in units of its error, and as much "
        "of the correction",
        "is used as helps on the scene itself (test at reduced resolution). The published form makes the cube anew and "
        "needs far",
        f"longer trainings. Where the correction brings nothing, the result is that of `{header.base}`.", "",
        "## Training", "",
        f"- `{record['protocol']}`: {record['core_minutes']:g} core-minutes, {record['steps']} steps (kept: "
        f"{record['best_step']}), {BATCH} patches of {PATCH_PX} x {PATCH_PX} pixels",
        f"  a step, seed {record['seed']}, {record['finished'][:10]}, one core ({record['device']}), torch "
        f"{record['torch']}",
        f"- scenes: {', '.join(s for s in record['scenes'] if not s.startswith('generated'))}, {GENERATED} generated",
        f"- validation windows of {', '.join(record['validation_scenes'])}:",
        f"  {best['psnr_db']:.2f} dB / {best['sam_deg']:.2f} deg with all of the correction, base estimate "
        f"{first['base_psnr_db']:.2f} dB / {first['base_sam_deg']:.2f} deg", "",
    ]  # fmt: skip
    if len(spread) > 1:
        lines += [f"Gain on validation by seed: {', '.join(f'{gain:+.3f}' for gain in spread)} dB.", ""]
    lines += [
        "## One window of each validation site, ratios 3 and 4", "",
        "Gain over the base estimate, mean over bands and windows, dB. A run finds the share on its own scene and uses",
        "half of it: what it gains lies between nothing and the second figure.", "",
        "| setting | all of the correction | best share of it in each band |", "|---|---|---|",
        *(f"| {setting} | {whole:+.2f} | {best:+.2f} |" for setting, (whole, best) in record["gains_db"].items()), "",
    ]  # fmt: skip
    lines += ["Test sites: docs/leaderboard.md.", ""]
    if notes.strip():
        lines += [notes.strip(), ""]
    lines += [
        "## Limits", "", "- A short training on small airborne scenes; no PRISMA product among them.",
        "- Other ratios, MSI bands or wavelengths need a training of their own.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--networks", nargs="*", default=[], help="default: every small network")
    parser.add_argument("--core-minutes", type=float, default=4.0, help="processor time of each training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--cards", action="store_true", help="train nothing, write the cards of trained networks again")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets a folder for each network")
    args = parser.parse_args(arguments)
    if args.cards:
        for name in args.networks or lite_networks():
            write_card(args.output / name)
        return
    torch.set_num_threads(1)
    data = training_data(args.data, args.seeds[0])
    windows: dict[int, FusionTask] = {}
    for name in args.networks or lite_networks():
        trained = []
        for seed in args.seeds:
            trained.append(train_one(name, data, args.core_minutes, seed, windows.get(seed)))
            windows.setdefault(seed, trained[-1].task)
        first, folder = trained[0], args.output / name
        spread = [t.header.training["validation"]["gain_db"] for t in trained]
        header = replace(first.header, training={**first.header.training, "gain_db_by_seed": spread})
        save_weights(folder / WEIGHTS_FILE, first.result.network, header, dtype="bf16")
        write_card(folder)
        told = {"network": name, "steps": first.result.steps, "gain_db": spread, **first.header.training["gains_db"]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
