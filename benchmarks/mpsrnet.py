"""MPSRNet-Diff with and without its diffusion prior, at ratio 6 with a panchromatic guide, on sites it never saw.

    python benchmarks/mpsrnet.py --data CUBES --with WEIGHTS --without WEIGHTS --output OUT

Cubes of the test sites are degraded (Wald's protocol) and fused by the classics and both networks; corrections are
used in full. ``--split validation`` scores the sites that designs may be chosen by, ``--steps`` how often the prior is
sampled.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hsfuse.config import TrainConfig
from hsfuse.fusion.base import FusionContext, FusionMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.nets.weights import load_weights
from hsfuse.grid import Slice2D
from hsfuse.metrics.reference import ergas, psnr, sam_deg
from hsfuse.progress import SilentProgress
from hsfuse.training.augment import Disturbance
from hsfuse.training.fusion_task import low_resolution_strip
from hsfuse.training.pairs import ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.workflows.training.training_data import collect
from hsfuse.workflows.training.training_inputs import TrainingInput

RATIO, LEAST_PX = 6, 48
SETTINGS = {
    "35 dB": Disturbance(hsi_snr_db=35.0, msi_snr_db=45.0),
    "field": Disturbance(hsi_snr_db=30.0, msi_snr_db=40.0, psf_factor=1.1, shift_px=(0.07, -0.07), msi_gain=0.02,
                         msi_offset=0.005, stripes=0.3),
}  # fmt: skip
CLASSICS = ("bicubic", "gsa", "cnmf", "glp")


def methods(weights: Mapping[str, Path], steps: int | None) -> dict[str, FusionMethod]:
    made = {name: create_method(name) for name in CLASSICS}
    for name, path in weights.items():
        options: dict[str, Any] = {"model": path, "validate": False}
        made[name] = create_method("mpsrnet-diff-lite", **options, **({"steps": steps} if steps else {}))
    return made


def fused(method: FusionMethod, pair: ReducedPair) -> tuple[np.ndarray, float]:
    strip, facts = low_resolution_strip(pair), pair.facts
    context = FusionContext(RATIO, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, seed=facts.seed)
    begun = time.monotonic()
    method.fit(context, [strip])
    cube = method.fuse(pair.hsi[None], pair.msi[None])[0].float().numpy()
    return cube, time.monotonic() - begun


def scored(cube: Path, weights: Mapping[str, Path], steps: int | None) -> list[dict[str, Any]]:
    header = load_weights(next(iter(weights.values()))).header
    config = TrainConfig.resolve(None, guide="pan", ratio=str(RATIO), steps=1)
    scene = collect([TrainingInput(cube, ())], config, header, SilentProgress()).entries[0].load()
    height, width = (size // RATIO * RATIO for size in scene.valid.shape)
    if min(height, width) < LEAST_PX:
        return []
    reducer, rows = Reducer(np.asarray(header.centre_nm), np.asarray(header.fwhm_nm)), []
    for setting, disturbance in SETTINGS.items():
        pair = reducer.make(scene, Slice2D(0, height, 0, width), RATIO, disturbance)
        truth, valid = pair.target.numpy(), pair.valid.bool().numpy()
        for name, method in methods(weights, steps).items():
            made, seconds = fused(method, pair)
            rows.append(
                {"scene": cube.stem, "setting": setting, "method": name, "psnr_db": psnr(truth, made, valid),
                 "sam_deg": sam_deg(truth, made, valid), "ergas": ergas(truth, made, RATIO, valid),
                 "seconds_per_megapixel": seconds / truth[0].size * 1e6}
            )  # fmt: skip
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| setting | method | PSNR dB | SAM deg | ERGAS | worst gain over glp dB | s per Mpx |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for setting, method in dict.fromkeys((row["setting"], row["method"]) for row in rows):
        of = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
        glp = {row["scene"]: row["psnr_db"] for row in rows if (row["setting"], row["method"]) == (setting, "glp")}
        mean = {key: float(np.mean([row[key] for row in of])) for key in ("psnr_db", "sam_deg", "ergas")}
        worst = min(row["psnr_db"] - glp[row["scene"]] for row in of)
        speed = float(np.mean([row["seconds_per_megapixel"] for row in of]))
        lines.append(
            f"| {setting} | {method} | {mean['psnr_db']:.2f} | {mean['sam_deg']:.2f} | {mean['ergas']:.2f} |"
            f" {worst:+.2f} | {speed:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the cubes")
    parser.add_argument("--sites", type=Path, default=Path(__file__).with_name("sites.toml"))
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--with", dest="with_prior", type=Path, required=True, help="weights that use a prior")
    parser.add_argument("--without", type=Path, required=True, help="weights that use none")
    parser.add_argument("--steps", type=int, help="sampling steps of the prior; default: as the weights say")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sites = tomllib.loads(given.sites.read_text(encoding="utf-8"))
    own = set(sites["bands"]["own"])
    cubes = [given.data / f"{name}.npz" for names in sites[given.split].values() for name in names if name not in own]
    weights = {"without prior": given.without, "with prior": given.with_prior}
    rows = [row for cube in cubes if cube.is_file() for row in scored(cube, weights, given.steps)]
    text = table(rows)
    print(text)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "mpsrnet.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (given.output / "mpsrnet.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
