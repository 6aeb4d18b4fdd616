"""Quality of fusion methods on measured scenes at reduced resolution (Wald's protocol).

Every scene is degraded to an HSI and an MSI whose truth is the scene itself; every method gets the same pair, the
nominal PSF and the nominal responses. Networks are scored on scenes that they were not trained on: the scenes of
their training stand in their weights, and those are passed over (``--allow-seen`` marks them instead). Weights may be
named by fold (``ssrfn=folds/{fold}.safetensors``): each scene belongs to one, its site or its sensor.

    python benchmarks/quality.py --data ../shared/data
    python benchmarks/quality.py --methods bicubic glp ssrfn --weights ssrfn=MODEL.safetensors --ratio 3
    python benchmarks/quality.py --weights 'ssrfn=folds/not_{fold}.safetensors' --fold-by sensor
    python benchmarks/quality.py --methods glp ssrfn --adapt-minutes 10 --scenes urban-2
    python benchmarks/quality.py --cube Chikusei.mat --cube PaviaCentre.mat --ratio 4 --own-bands

The data folder holds ``cubes/*.npz``, any ``*/*.tif`` with wavelengths, and ``srf/``; see quality_scenes.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from quality_scenes import ReferenceScene, generated_scene, prisma_like_bands, read_cube, sentinel2_responses
from quality_tables import PAPER_TABLES, markdown

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import HsfuseError, InputError, OverlapError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.fidelity import guarded
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.metrics.reference import score_all
from hsfuse.simulate.wald import CONDITIONS, WaldPair, reduce_scene
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.method_specification import MethodSpecification, parse_specification, usual_specifications

NOMINAL_PSF = Psf(1.0)
SENSORS = ("aviris", "enmap", "prisma", "generated")


def fold_of(scene: ReferenceScene, by: str = "site") -> str:
    """Scenes of one site share a fold (``airport-3`` -> ``airport``), or those of one sensor (``aviris``)."""
    if by == "sensor":
        return next((sensor for sensor in SENSORS if sensor in scene.file.lower()), "other")
    return scene.name.rstrip("0123456789").rstrip("-_")


def in_fold(spec: MethodSpecification, scene: ReferenceScene, by: str) -> MethodSpecification:
    """Fill the scene's fold into the name of the weights."""
    if spec.weights is None or "{fold}" not in spec.weights:
        return spec
    return replace(spec, weights=spec.weights.format(fold=fold_of(scene, by)))


def was_seen(header: NetworkHeader, scene: ReferenceScene) -> bool:
    """Whether the record of a training, or of an adaptation after it, names the scene."""
    names = [str(name) for name in header.training.get("scenes", [])]
    names.append(str(header.training.get("adaptation", {}).get("scene", "")))
    return any(scene.file in name or name == scene.name for name in names)


def run(
    spec: MethodSpecification, scene: ReferenceScene, pair: WaldPair, ratio: int, device: str, seed: int = 0,
    adapt_steps: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    inner = spec.create()
    record: dict[str, Any] = {}
    if spec.adapt_minutes is not None or adapt_steps is not None:
        from hsfuse.workflows.steps.adapt import adapt

        whole = array_scene(pair.hsi, pair.msi, scene.bands, scene.responses or None, ratio, NOMINAL_PSF)
        start = time.perf_counter()
        result = adapt(inner, whole, minutes=spec.adapt_minutes, steps=adapt_steps, device=device, seed=seed,
                       base=spec.header().base)  # fmt: skip
        record = {"adaptation": result.to_json(), "adapt_seconds": time.perf_counter() - start}
    method = guarded(inner, spec.guards)
    context = FusionContext(ratio, scene.bands.centre_nm, scene.bands.fwhm_nm, scene.srf, NOMINAL_PSF, device)
    low = lowpass_decimate_array(pair.msi, ratio, NOMINAL_PSF)
    valid = np.ones(low.shape[1:], bool)
    hsi, msi = (torch.from_numpy(image)[None].to(device) for image in (pair.hsi, pair.msi))
    start = time.perf_counter()
    method.fit(context, [LowResolutionStrip(pair.hsi, low, valid, pair.msi)])
    fused = method.fuse(hsi, msi)[0].cpu().numpy()
    seconds = time.perf_counter() - start
    validation = inner.diagnostics.validation
    if validation is not None:
        record["validation"] = {k: v for k, v in validation.to_json().items() if k != "share"}
    return score_all(pair.truth, fused, ratio).to_json() | {"seconds": seconds} | record


def wanted_methods(args: argparse.Namespace) -> list[MethodSpecification]:
    """Methods in the order of the tables, each network with its weights and, if wanted, adapted as well."""
    weights = {}
    for text in args.weights:
        name, sign, file = text.partition("=")
        if not sign:
            raise SystemExit(f"--weights {text} is not NAME=FILE.")
        weights[name] = file
    specs = [parse_specification(text) for text in args.methods] if args.methods else usual_specifications()
    if not args.methods and args.own_bands:
        # Networks have bands of their own.
        specs = [spec for spec in specs if not spec.network]
    elif not args.methods:
        known = {spec.name for spec in specs}
        specs += [parse_specification(name) for name in weights if name not in known]
    unused = set(weights) - {spec.name for spec in specs}
    if unused:
        raise SystemExit(f"--weights for {', '.join(sorted(unused))}, which --methods does not name.")
    specs = [
        replace(spec, weights=weights[spec.name]) if spec.name in weights and spec.weights is None else spec
        for spec in specs
    ]
    if args.adapt_minutes is None and args.adapt_steps is None:
        return specs
    found = []
    for spec in specs:
        found.append(spec)
        if spec.network:
            found.append(replace(spec, label=f"{spec.label}, adapted", adapt_minutes=args.adapt_minutes))
    return found


def any_fold(spec: MethodSpecification) -> MethodSpecification:
    """Name the weights of some fold: all of them share their bands."""
    if spec.weights is None or "{fold}" not in spec.weights:
        return spec
    pattern = Path(spec.weights.replace("{fold}", "*"))
    found = sorted(pattern.parent.glob(pattern.name))
    if not found:
        raise SystemExit(f"There are no weights {pattern}.")
    return replace(spec, weights=str(found[0]))


def own_bands(specs: Sequence[MethodSpecification], args: argparse.Namespace) -> BandTable | None:
    """Bands that all scenes are brought to: the networks', else 100 of PRISMA's; None keeps each scene's own."""
    tables = {}
    for spec in specs:
        if spec.network:
            header = any_fold(spec).header()
            tables[header.centre_nm] = header.bands
    if len(tables) > 1:
        raise SystemExit("The networks were trained on different bands; score them in two calls.")
    if tables and args.own_bands:
        raise SystemExit("--own-bands and networks exclude each other: these have bands of their own.")
    if args.own_bands:
        return None
    return next(iter(tables.values()), None) or prisma_like_bands()


def load_scenes(args: argparse.Namespace, bands: BandTable | None = None) -> list[ReferenceScene]:
    files = list(args.cubes)
    if not files and not args.generated:
        files = [*sorted((args.data / "cubes").glob("*.npz")), *sorted(args.data.glob("enmap*/*.tif"))]
    if not files and not args.generated:
        raise SystemExit(f"There are no cubes in {args.data}; name a folder with --data or files with --cubes.")
    wanted = None if args.own_bands else bands or prisma_like_bands()
    responses = sentinel2_responses(args.data if args.data.is_dir() else None)
    scenes = []
    for file in files:
        name = file.stem.removeprefix("aviris_")
        if args.scenes and not any(word in name for word in args.scenes):
            continue
        cube, own = read_cube(file, largest=args.crop)
        scenes.append(ReferenceScene.make(name, cube, own, responses, target=wanted, file=file.stem))
    target = wanted or prisma_like_bands()
    return scenes + [
        generated_scene(number, 144, max(args.ratios), responses, target) for number in range(args.generated)
    ]


def git_commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument(
        "--cubes", "--cube", type=Path, nargs="*", default=[], action="extend",
        help="cube files instead of the folder's (.npz, .mat, any raster with wavelengths)",
    )  # fmt: skip
    parser.add_argument("--generated", type=int, default=0, help="so many generated scenes (instead of the folder's)")
    parser.add_argument("--scenes", nargs="*", default=[], help="only scenes whose name contains one of these")
    parser.add_argument(
        "--methods", nargs="*", default=[],
        help="name[:option=value,...][@weights][+guard=value,...]; default: classics, and networks with weights",
    )  # fmt: skip
    parser.add_argument(
        "--weights", nargs="*", default=[], action="extend", metavar="NAME=FILE",
        help="weights of a network; {fold} in the name stands for the scene's fold",
    )  # fmt: skip
    parser.add_argument("--fold-by", choices=["site", "sensor"], default="site", help="what a fold is")
    parser.add_argument("--allow-seen", action="store_true", help="score scenes of a network's training too, marked")
    parser.add_argument("--adapt-minutes", type=float, help="score each network adapted to the scene as well")
    parser.add_argument("--adapt-steps", type=int, help="the same, for so many steps")
    parser.add_argument("--ratios", "--ratio", type=int, nargs="*", default=[3, 4])
    parser.add_argument("--settings", nargs="*", default=list(CONDITIONS), choices=list(CONDITIONS))
    parser.add_argument("--own-bands", action="store_true", help="keep each cube's bands instead of 100 PRISMA-like")
    parser.add_argument("--crop", type=int, default=512, help="largest side of a scene; the middle is used")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--json", type=Path, help="write every score to this file")
    return parser.parse_args(arguments)


def score_all_methods(
    scenes: Sequence[ReferenceScene], specs: Sequence[MethodSpecification], args: argparse.Namespace
) -> list[dict[str, Any]]:
    records = []
    for ratio in args.ratios:
        for setting in args.settings:
            for scene in scenes:
                pair = reduce_scene(scene.cube, scene.msi, ratio, CONDITIONS[setting], name=scene.name, seed=args.seed)
                for general in specs:
                    spec = in_fold(general, scene, args.fold_by)
                    seen = False
                    if spec.network:
                        header = spec.header()
                        seen = was_seen(header, scene)
                        if not header.training.get("scenes"):
                            print(
                                f"{spec.label}: its weights do not say which scenes it was trained on",
                                flush=True,
                            )
                        if ratio not in header.ratios or (seen and not args.allow_seen):
                            why = "was trained on it" if seen else f"knows no ratio of {ratio}"
                            print(f"r{ratio} {setting:10s} {scene.name:14s} {spec.label:20s} left out: {why}")
                            continue
                    steps = args.adapt_steps if spec.label.endswith(", adapted") else None
                    try:
                        scores = run(spec, scene, pair, ratio, args.device, args.seed, steps)
                    except (InputError, OverlapError) as error:
                        if not spec.label.endswith(", adapted"):
                            raise
                        # Too small to train on; the others go on.
                        print(f"r{ratio} {setting:10s} {scene.name:14s} {spec.label:20s} left out: {error.message}")
                        continue
                    about = {"ratio": ratio, "setting": setting, "scene": scene.name, "method": general.label,
                             "classic": not spec.network, "seen": seen}  # fmt: skip
                    records.append(about | scores)
                    print(f"r{ratio} {setting:10s} {scene.name:14s} {spec.label:20s} {scores['PSNR']:.2f} dB"
                          + (" (seen in training)" if seen else ""), flush=True)  # fmt: skip
                if args.json:
                    # Hours of work: what is there is kept.
                    args.json.write_text(json.dumps({"records": records}, indent=1) + "\n", encoding="utf-8")
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    try:
        specs = wanted_methods(args)
        scenes = load_scenes(args, own_bands(specs, args))
        records = score_all_methods(scenes, specs, args)
    except HsfuseError as error:
        raise SystemExit(f"{error.message} {error.hint}") from error
    facts = {
        "command": "python benchmarks/quality.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "device": f"{args.device}, {args.threads} thread(s), {platform.processor() or platform.machine()}",
        "torch": torch.__version__,
    }
    report = markdown(records, facts)
    for name, table in PAPER_TABLES.items():
        if any(name in scene.name.lower() for scene in scenes):
            report += table
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, "records": records}, indent=1) + "\n", encoding="utf-8")
    if args.out:
        args.out.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
