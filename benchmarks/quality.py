"""Quality of fusion methods on measured scenes at reduced resolution (Wald's protocol).

Every scene is degraded to an HSI and an MSI whose truth is the scene itself; every method gets the same pair, the
nominal PSF and the nominal responses. Networks are scored on scenes that they were not trained on: their weights
may be named by fold (``ssrfn@folds/{fold}.safetensors``), each scene belongs to one.

    python benchmarks/quality.py --data ../shared/data
    python benchmarks/quality.py --methods bicubic glp ssrfn@models/ssrfn/weights.safetensors --ratios 3
    python benchmarks/quality.py --cubes Chikusei.mat PaviaCentre.mat --own-bands

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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from quality_scenes import ReferenceScene, prisma_like_bands, read_cube, sentinel2_responses
from quality_tables import PAPER_TABLES, markdown

from hsfuse.degrade import Psf, decimate_separable, lowpass_decimate_array, psf_kernel
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, create_method
from hsfuse.fusion.fidelity import FidelityOptions, guarded
from hsfuse.metrics.reference import score_all

CLASSICS = ("bicubic", "gsa", "glp:adaptive=false", "glp", "cnmf")
NOMINAL_PSF = Psf(1.0)


@dataclass(frozen=True)
class Setting:
    """What goes wrong between the truth and the pair; the methods are not told.

    ``hsi_snr_db`` and ``msi_snr_db``: root mean square over noise in each band. ``psf_fwhm_px``: true PSF width.
    ``shift_px``: length of the HSI's displacement in HSI pixels, in a direction that differs by scene.
    ``msi_gain``, ``msi_offset``: largest relative gain error and offset (of the band's mean) of the MSI bands.
    """

    hsi_snr_db: float | None = None
    msi_snr_db: float | None = None
    psf_fwhm_px: float = 1.0
    shift_px: float = 0.0
    msi_gain: float = 0.0
    msi_offset: float = 0.0


SETTINGS = {
    "noise-free": Setting(),
    "35dB": Setting(35.0, 40.0),
    "field": Setting(30.0, 35.0, psf_fwhm_px=1.1, shift_px=0.2, msi_gain=0.03, msi_offset=0.01),
}


@dataclass(frozen=True)
class Pair:
    """A degraded scene: HSI and MSI (band, row, col), the truth on the MSI's grid."""

    hsi: NDArray[np.float32]
    msi: NDArray[np.float32]
    truth: NDArray[np.float32]


def degrade(scene: ReferenceScene, ratio: int, setting: Setting, seed: int = 0) -> Pair:
    rng = np.random.default_rng([seed, *scene.name.encode()])
    rows, cols = (size // ratio * ratio for size in scene.cube.shape[1:])
    truth = np.ascontiguousarray(scene.cube[:, :rows, :cols])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    shift = setting.shift_px * np.sin(angle), setting.shift_px * np.cos(angle)
    kernels = [tuple(psf_kernel(Psf(setting.psf_fwhm_px), ratio, offset_px=float(s))) for s in shift]
    hsi = decimate_separable(torch.from_numpy(truth)[None], ratio, *kernels)[0].numpy()
    msi = scene.msi[:, :rows, :cols].astype(np.float64)
    gain = 1.0 + setting.msi_gain * rng.uniform(-1.0, 1.0, (len(msi), 1, 1))
    offset = setting.msi_offset * rng.uniform(-1.0, 1.0, (len(msi), 1, 1)) * msi.mean(axis=(1, 2), keepdims=True)
    return Pair(noisy(hsi, setting.hsi_snr_db, rng), noisy(gain * msi + offset, setting.msi_snr_db, rng), truth)


def noisy(image: NDArray[np.floating], snr_db: float | None, rng: np.random.Generator) -> NDArray[np.float32]:
    if snr_db is None:
        return image.astype(np.float32)
    sigma = np.sqrt((image.astype(np.float64) ** 2).mean(axis=(1, 2), keepdims=True)) * 10.0 ** (-snr_db / 20.0)
    return (image + sigma * rng.normal(size=image.shape)).astype(np.float32)


def fold_of(name: str) -> str:
    """Scenes of one site share a fold: ``airport-3`` -> ``airport``."""
    return name.rstrip("0123456789").rstrip("-_")


def make_method(text: str, fold: str) -> FusionMethod:
    """``name[:option=value,...][@weights][+guard=value,...]``; ``{fold}`` in the weights is replaced."""
    rest, _, guards = text.partition("+")
    head, _, weights = rest.partition("@")
    name, _, options = head.partition(":")
    values = parse_values(options)
    if weights:
        values["model"] = Path(weights.format(fold=fold))
    return guarded(create_method(name, **values), FidelityOptions(**parse_values(guards)))


def parse_values(text: str) -> dict[str, Any]:
    pairs = (item.partition("=") for item in filter(None, text.split(",")))
    return {key: json.loads(value) for key, _, value in pairs}


def is_classic(text: str) -> bool:
    return "@" not in text and not text.startswith("ssrfn")


def run(text: str, scene: ReferenceScene, pair: Pair, ratio: int, device: str) -> dict[str, float | None]:
    method = make_method(text, fold_of(scene.name))
    context = FusionContext(ratio, scene.bands.centre_nm, scene.bands.fwhm_nm, scene.srf, NOMINAL_PSF, device)
    low = lowpass_decimate_array(pair.msi, ratio, NOMINAL_PSF)
    valid = np.ones(low.shape[1:], bool)
    hsi, msi = (torch.from_numpy(image)[None].to(device) for image in (pair.hsi, pair.msi))
    start = time.perf_counter()
    method.fit(context, [LowResolutionStrip(pair.hsi, low, valid)])
    fused = method.fuse(hsi, msi)[0].cpu().numpy()
    seconds = time.perf_counter() - start
    return score_all(pair.truth, fused, ratio).to_json() | {"seconds": seconds}


def load_scenes(args: argparse.Namespace) -> list[ReferenceScene]:
    files = list(args.cubes)
    if not files:
        files = [*sorted((args.data / "cubes").glob("*.npz")), *sorted(args.data.glob("enmap*/*.tif"))]
    if not files:
        raise SystemExit(f"There are no cubes in {args.data}; name a folder with --data or files with --cubes.")
    bands = None if args.own_bands else prisma_like_bands()
    responses = sentinel2_responses(args.data if args.data.is_dir() else None)
    scenes = []
    for file in files:
        name = file.stem.removeprefix("aviris_")
        if args.scenes and not any(wanted in name for wanted in args.scenes):
            continue
        cube, own = read_cube(file, largest=args.crop)
        scenes.append(ReferenceScene.make(name, cube, own, responses, target=bands))
    return scenes


def git_commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--cubes", type=Path, nargs="*", default=[], help="cube files instead of the folder's")
    parser.add_argument("--scenes", nargs="*", default=[], help="only scenes whose name contains one of these")
    parser.add_argument(
        "--methods", nargs="*", default=list(CLASSICS), help="name[:option=value,...][@weights][+guard=value,...]"
    )
    parser.add_argument("--ratios", type=int, nargs="*", default=[3, 4])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--own-bands", action="store_true", help="keep each cube's bands instead of 100 PRISMA-like")
    parser.add_argument("--crop", type=int, default=512, help="largest side of a scene; the middle is used")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--json", type=Path, help="write every score to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    scenes = load_scenes(args)
    records = []
    for ratio in args.ratios:
        for setting in args.settings:
            for scene in scenes:
                pair = degrade(scene, ratio, SETTINGS[setting], args.seed)
                for method in args.methods:
                    scores = run(method, scene, pair, ratio, args.device)
                    about = {"ratio": ratio, "setting": setting, "scene": scene.name, "method": method}
                    records.append(about | {"classic": is_classic(method)} | scores)
                    print(f"r{ratio} {setting:10s} {scene.name:14s} {method:20s} {scores['PSNR']:.2f} dB", flush=True)
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
