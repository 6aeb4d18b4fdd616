"""Train a network of the zoo from generated scenes and real cubes, and score it on scenes it never saw.

    python benchmarks/train_zoo/train.py --data CUBES --generated 400 --hold-out urban --minutes 300 --output OUT

Cubes are `.npz` (``cube``, ``wavelength_nm``) or GeoTIFF/ENVI files with wavelengths; they are resampled to PRISMA's
band centres. ``--hold-out`` names scenes (parts of their file names) that are left out of training and scored
afterwards. Weights, log and ``card.md`` go to ``--output`` (``models/NAME`` of the source tree to ship them); the
script prints the card. ``--resume`` goes on with an interrupted training.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hsfuse.config import TrainConfig
from hsfuse.fusion.nets.weights import load_weights
from hsfuse.fusion.nets.zoo import CARD_FILE, WEIGHTS_FILE
from hsfuse.fusion.registry import architecture
from hsfuse.grid import Slice2D
from hsfuse.progress import SilentProgress, default_progress
from hsfuse.training.augment import Disturbance
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.reducer import Reducer
from hsfuse.training.source import Sampling
from hsfuse.training.validation import validate
from hsfuse.workflows.train_reduced import train_reduced
from hsfuse.workflows.training.training_data import collect
from hsfuse.workflows.training.training_inputs import TrainingInput

SUFFIXES = (".npz", ".tif", ".tiff", ".img", ".dat", ".bil", ".bsq", ".bip")
SETTINGS = {
    "ideal": Disturbance(),
    "35 dB": Disturbance(hsi_snr_db=35.0, msi_snr_db=45.0),
    "field": Disturbance(hsi_snr_db=30.0, msi_snr_db=40.0, psf_factor=1.1, shift_px=(0.14, -0.14), msi_gain=0.02,
                         msi_offset=0.005, stripes=0.3),
}  # fmt: skip
"""What held-out scenes are scored in; the shift's length is 0.2 HSI pixels."""


def find_cubes(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    return found


def held_out_scores(weights: Path, cubes: Sequence[Path], config: TrainConfig, device: str) -> list[dict[str, Any]]:
    loaded = load_weights(weights)
    network = loaded.network.to(device)
    header = loaded.header
    centre, fwhm = np.asarray(header.centre_nm), np.asarray(header.fwhm_nm)
    reducer, make_task = Reducer(centre, fwhm, device), architecture(header.architecture).task
    if make_task is None:
        raise SystemExit(f"{header.name} is not trained on reduced pairs.")
    rows = []
    scoring = config.model_copy(update={"generated": 0, "remixed": 0, "init": str(weights), "ratio": None})
    for cube in cubes:
        data = collect([TrainingInput(cube, ())], scoring, header, SilentProgress())
        scene = data.entries[0].load()
        setup = TaskSetup(data.entries, Sampling(ratios=header.ratios), centre, fwhm, base=header.base, device=device)
        task = make_task(network, setup)
        for ratio in header.ratios:
            height, width = (size // ratio * ratio for size in scene.valid.shape)
            for name, disturbance in SETTINGS.items():
                pair = task.prepare(reducer.make(scene, Slice2D(0, height, 0, width), ratio, disturbance))
                scores = validate(task.predict, task.baseline, [pair])
                rows.append({"scene": cube.stem, "ratio": ratio, "setting": name, **scores.to_json()})
    return rows


def card(name: str, summary: dict[str, Any], rows: Sequence[dict[str, Any]], command: str) -> str:
    scores = summary["validation"]
    lines = [
        f"# {name}", "",
        f"{summary['parameters'] / 1e6:.2f} M parameters, base estimate: {summary['base'] or 'bicubic'}.", "",
        "## Training", "",
        f"- command: `{command}`",
        f"- finished {summary['finished']} on {summary['device']}, {summary['processes']} process(es), "
        f"{summary['training_seconds'] / 3600:.2f} h, {summary['steps']} steps (best: {summary['best_step']}), "
        f"{summary['loop']['precision']}",
        f"- recipe `{summary['recipe']}`: {json.dumps(summary['loop'])}",
        f"- ratios {', '.join(map(str, summary['ratios']))}; scenes: {_scenes(summary['scenes'])}",
        f"- validation strips and scenes: {scores['psnr_db']:.2f} dB / {scores['sam_deg']:.2f} deg, base estimate "
        f"{scores['base_psnr_db']:.2f} dB / {scores['base_sam_deg']:.2f} deg", "",
        "## Held-out scenes (zero-shot, correction used in full)", "",
    ]  # fmt: skip
    if not rows:
        return "\n".join([*lines, "None were held out.", ""])
    lines += [
        "| scene | ratio | setting | PSNR dB | base | gain | SAM deg | base |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['scene']} | {row['ratio']} | {row['setting']} | {row['psnr_db']:.2f} | {row['base_psnr_db']:.2f} "
            f"| {row['gain_db']:+.2f} | {row['sam_deg']:.2f} | {row['base_sam_deg']:.2f} |"
        )
    return "\n".join([*lines, ""])


def _scenes(names: Sequence[str]) -> str:
    real = [name for name in names if not name.startswith(("generated ", "remixed "))]
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in ("remixed", "generated")}
    return ", ".join([*real, *(f"{count} or more {kind}" for kind, count in counts.items() if count)])


def _word(value: object) -> str:
    """Write an option as one would type it; where files lie does not matter to others."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return Path(value).name if isinstance(value, str | Path) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ssrfn-paper")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="cubes, or folders with cubes")
    parser.add_argument(
        "--hold-out", nargs="*", default=[], help="leave out and score scenes with these words in their name"
    )
    parser.add_argument("--generated", type=int, default=400)
    parser.add_argument("--generated-px", type=int, default=192)
    parser.add_argument("--generated-share", type=float, default=0.5)
    parser.add_argument("--remixed", type=int, default=0, help="variants of every cube and structure image")
    parser.add_argument("--structure", help="image or folder of images whose structure is remixed")
    parser.add_argument("--validation-share", type=float, default=0.12)
    parser.add_argument("--gap", type=int, default=6)
    parser.add_argument("--validate-every", type=int)
    parser.add_argument("--ratio", default="3")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--init")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, log and card")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    cubes = find_cubes(given.data)
    held = [cube for cube in cubes if any(word in cube.stem for word in given.hold_out)]
    unused = [word for word in given.hold_out if not any(word in cube.stem for cube in cubes)]
    if unused:
        parser.error(f"no scene is called {', '.join(unused)}")
    config = TrainConfig.resolve(
        None, method=given.network, generated=given.generated, generated_px=given.generated_px, ratio=given.ratio,
        generated_share=given.generated_share, remixed=given.remixed, structure=given.structure,
        validation_share=given.validation_share, gap=given.gap, validate_every=given.validate_every,
        minutes=given.minutes, steps=given.steps, batch=given.batch, patch=given.patch, lr=given.lr, init=given.init,
        device=given.device, threads=given.threads, seed=given.seed, resume=given.resume, overwrite=not given.resume,
        weights="bf16", name=given.network, validation_windows=12,
    )  # fmt: skip
    output = given.output / WEIGHTS_FILE
    result = train_reduced([c for c in cubes if c not in held], output, config, progress=default_progress())
    device = "cuda" if torch.cuda.is_available() and given.device != "cpu" else "cpu"
    rows = held_out_scores(output, held, config, device)
    words = [f"--{key.replace('_', '-')} {_word(value)}" for key, value in vars(given).items()
             if key not in ("data", "output", "resume", "threads") and value not in (None, [], False)]  # fmt: skip
    text = card(given.network, result.summary, rows, "python benchmarks/train_zoo/train.py " + " ".join(words))
    (given.output / CARD_FILE).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
