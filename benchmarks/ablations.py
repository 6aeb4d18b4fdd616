"""What the modules of SSRFN bring: the paper's ablations, each network trained for the same time on the same scenes.

    python benchmarks/ablations.py --data ../shared/data --minutes 10 --output ablations
    python benchmarks/ablations.py --network ssrfn-paper --minutes 600 --device cuda --output ablations-paper

Two starting points: ``literal`` (default) is the paper's network, made small enough for a CPU; ``ssrfn-paper`` is all
of it. No base estimate, raster scan, every module as published. Networks are scored on scenes left out of training.
What is trained already lies in ``--output`` and is not trained again; ``--steps`` gives equal steps instead of equal
time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from quality import git_commit, run
from quality_scenes import ReferenceScene, read_cube, sentinel2_responses

from hsfuse.config import TrainConfig
from hsfuse.errors import HsfuseError
from hsfuse.fusion.nets.header import read_header
from hsfuse.progress import default_progress
from hsfuse.simulate.wald import CONDITIONS, reduce_scene
from hsfuse.workflows.steps.method_specification import MethodSpecification, parse_specification
from hsfuse.workflows.train_reduced import train_reduced

LITERAL = {
    "width": 32, "d_state": 32, "headdim": 32, "dfe_blocks": 2, "cfe_cycles": 3, "scm_steps": 6, "refine_stages": 2,
    "normalisation": "band",
}  # fmt: skip
"""The paper's preset with fewer channels and repetitions. Bands are normalised: reflectance as it is would leave
minutes of training to find the level of each band."""


@dataclass(frozen=True)
class Variant:
    """One network: settings on top of the starting point, and what the paper reports (PSNR, SAM on Chikusei)."""

    name: str
    settings: Mapping[str, str]
    paper: tuple[float, float] | None


VARIANTS = (
    Variant("full", {}, (29.86, 2.53)),
    Variant("no Mamba in DFE", {"dfe_mamba": "none"}, (27.11, 2.90)),
    Variant("no Mamba in CFE", {"cfe_mamba": "none"}, (28.91, 2.59)),
    Variant("no CFE, no SCM", {"use_correction": "false"}, (17.26, 13.22)),
    Variant("only SpaR", {"refinement": "spatial"}, (19.68, 12.55)),
    Variant("only SpeR", {"refinement": "spectral"}, (20.19, 7.63)),
    Variant("only CNN", {"mamba": "none"}, (22.11, 11.73)),
)


def cubes_of(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    found = [*sorted((data / "cubes").glob("*.npz")), *sorted(data.glob("*.npz")), *sorted(data.glob("enmap*/*.tif"))]
    if not found:
        raise SystemExit(f"There are no cubes in {data}.")
    return found


def train(variant: Variant, cubes: Sequence[Path], weights: Path, args: argparse.Namespace) -> dict[str, Any]:
    literal = args.network == "literal"
    settings = {**(LITERAL if literal else {}), **dict(item.split("=") for item in args.settings), **variant.settings}
    config = TrainConfig.resolve(
        None, method="ssrfn-paper", name=variant.name, ratio=str(args.ratio),
        network_settings=",".join(f"{key}={value}" for key, value in settings.items()) or None,
        minutes=args.minutes, steps=args.steps, bands=args.bands, generated=args.generated,
        batch=args.batch, patch=args.patch, lr=args.lr, device=args.device, threads=args.threads, seed=args.seed,
        overwrite=True,
    )  # fmt: skip
    return train_reduced(list(cubes), weights, config, progress=default_progress()).summary


def score(
    spec: MethodSpecification, scenes: Sequence[ReferenceScene], args: argparse.Namespace
) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() and args.device != "cpu" else "cpu"
    found = []
    for setting in args.conditions:
        for scene in scenes:
            pair = reduce_scene(scene.cube, scene.msi, args.ratio, CONDITIONS[setting], name=scene.name)
            scores = run(spec, scene, pair, args.ratio, device)
            found.append({"setting": setting, "scene": scene.name, "method": spec.label, **scores})
            print(f"{setting:10s} {scene.name:14s} {spec.label:20s} {scores['PSNR']:.2f} dB", flush=True)
    return found


def table(
    rows: Sequence[dict[str, Any]], facts: Mapping[str, dict[str, Any]], conditions: Sequence[str], about: str
) -> str:
    """Render means over the held-out scenes, the network's size and the paper's own figures."""
    head = ["network", "parameters, M", "steps", *(f"{c}: PSNR / SAM" for c in conditions), "the paper: PSNR / SAM"]
    lines = ["# Ablations of SSRFN", "", about, "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    paper = {v.name: v.paper for v in VARIANTS}
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        known = facts.get(method)
        cells += [f"{known['parameters'] / 1e6:.3f}", str(known["steps"])] if known else ["-", "-"]
        for condition in conditions:
            own = [r for r in rows if r["method"] == method and r["setting"] == condition]
            cells.append(f"{np.mean([r['PSNR'] for r in own]):.2f} / {np.mean([r['SAM'] for r in own]):.2f}")
        published = paper.get(method)
        cells.append(f"{published[0]:.2f} / {published[1]:.2f}" if published else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes")
    parser.add_argument("--hold-out", nargs="*", default=["airport-4", "beach-2", "sandiego", "urban", "enmap"],
                        help="score, and do not train on, scenes with these words in their names")  # fmt: skip
    parser.add_argument("--network", default="literal", choices=["literal", "ssrfn-paper"])
    parser.add_argument("--settings", nargs="*", default=[], help="changes to it, such as width=48")
    parser.add_argument("--variants", nargs="*", default=[v.name for v in VARIANTS], choices=[v.name for v in VARIANTS])
    parser.add_argument("--minutes", type=float, help="training time of each network (10 without --steps)")
    parser.add_argument("--steps", type=int, help="training steps of each network")
    parser.add_argument("--generated", type=int, default=40, help="generated scenes to train on as well")
    parser.add_argument("--bands", default="100")
    parser.add_argument("--ratio", type=int, default=3)
    parser.add_argument("--conditions", nargs="*", default=["noise-free", "field"], choices=list(CONDITIONS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=36)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--crop", type=int, default=192, help="largest side of a scored scene")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, table and scores")
    args = parser.parse_args(arguments)
    if args.minutes is None and args.steps is None:
        args.minutes = 10.0
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    logging.basicConfig(level=logging.WARNING)
    cubes = cubes_of(args.data)
    held = [cube for cube in cubes if any(word in cube.stem for word in args.hold_out)]
    kept = [cube for cube in cubes if cube not in held]
    if not held or not (kept or args.generated):
        raise SystemExit("--hold-out leaves no scene to score, or none to train on.")
    args.output.mkdir(parents=True, exist_ok=True)
    specs, facts = [], {}
    try:
        for variant in (v for v in VARIANTS if v.name in args.variants):
            weights = args.output / (variant.name.replace(" ", "_").replace(",", "") + ".safetensors")
            if not weights.exists():
                train(variant, kept, weights, args)
            facts[variant.name] = read_header(weights).training
            specs.append(MethodSpecification(variant.name, "ssrfn-paper", {"validate": False}, str(weights)))
        header = read_header(Path(str(specs[0].weights)))
        bands = header.bands
        responses = sentinel2_responses(args.data if args.data.is_dir() else None)
        scenes = []
        for file in held:
            cube, own = read_cube(file, largest=args.crop)
            name = file.stem.removeprefix("aviris_")
            scenes.append(ReferenceScene.make(name, cube, own, responses, target=bands, file=file.stem))
        rows = [
            row for spec in (*map(parse_specification, ("bicubic", "glp")), *specs) for row in score(spec, scenes, args)
        ]
    except HsfuseError as error:
        raise SystemExit(f"{error.message} {error.hint}") from error
    budget = f"{args.steps} steps" if args.steps else f"{args.minutes:g} minutes"
    about = (
        f"Starting point `{args.network}`, {budget} of training each on {len(kept)} measured and {args.generated} "
        f"generated scenes, mean of {len(scenes)} scenes left out ({', '.join(s.name for s in scenes)}), ratio "
        f"{args.ratio}, {datetime.now(UTC):%Y-%m-%d}, commit {git_commit()}, {args.device} "
        f"({platform.processor() or platform.machine()}), torch {torch.__version__}. The paper's figures are for "
        "Chikusei at ratio 4 after 200 epochs with 38.6 M parameters: only the order of the rows can be compared.\n\n"
        "- command: `python benchmarks/ablations.py "
        + " ".join(sys.argv[1:] if arguments is None else arguments) + "`"
    )  # fmt: skip
    text = table(rows, facts, args.conditions, about)
    (args.output / "ablations.md").write_text(text, encoding="utf-8")
    (args.output / "ablations.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
