"""Pairs of different days and real-life pairs: the step behind a method against the method alone, on one side of sites.

Every cube is degraded as in quality.py; the MSI may show another day (pair_changes.py) and both sensors may be worse
than a Gaussian and white noise (``--settings real``, real_sensors.py). Inside and outside of the change are scored
apart.

    python benchmarks/real_pairs.py --data ../shared/data --split validation --qualities fast standard best
    python benchmarks/real_pairs.py --split test --changes none parcels shadow cloud season haze mix --out table.md
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pair_changes import CHANGES, changed_guide
from quality_scenes import ReferenceScene, prisma_like_bands, read_cube, sentinel2_responses
from real_sensors import real_pair
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata, spearmanr

from hsfuse.degrade import Psf, upsample_array
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import refined
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import SceneRepair, repair_scene
from hsfuse.metrics.reference import score_all
from hsfuse.simulate.wald import CONDITIONS, WaldPair, reduce_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
RATIO = 3
SITES = Path(__file__).parent / "sites.toml"
CONFIDENCE = ("auc", "flagged", "spearman", "beside", "coverage", "spearman_relative")
BESIDE_PX = 0.7
LEAST_BRIGHTNESS = 1e-3
"""Brightness that expected errors are divided by at least, as in the layer of confidence."""
PIXELS = "pixels"
"""Of a record: true and expected error, absolute and relative to the spectrum, shape (4, pixel); not written."""
SHARP = ("parcels", "shadow", "cloud", "mix")
"""Changes with a border: their probability can be scored."""


@dataclass(frozen=True)
class Fused:
    """A result and what is known about it."""

    cube: FloatCube
    repair: SceneRepair | None
    used: str
    seconds: float


def fused_pair(
    scene: ReferenceScene, pair: WaldPair, quality: str | None, method: str = "glp", *, blind: bool = False,
    partners: Sequence[FloatCube] = (), ratio: int = RATIO,
) -> Fused:  # fmt: skip
    """Fuse a pair, and further dates of its MSI, as the package does; None: the method alone."""
    start = time.perf_counter()
    whole = array_scene(
        pair.hsi, pair.msi, scene.bands, None if blind else scene.responses or None, ratio, Psf(1.0),
        partners=partners,
    )  # fmt: skip
    context = pipeline.scene_context(whole, "cpu", 0)
    repair = None if quality is None else repair_scene(whole, context)
    name, _, options = method.partition(":")
    inner = create_method(name, **({"adaptive": False} if options else {}))
    made = refined(inner, quality, ratio=ratio)  # type: ignore[arg-type]
    cube = pipeline.fuse_to_array(made, whole if repair is None else repair.scene, resolved(None))
    record = getattr(made, "refinement", None)
    return Fused(cube, repair, record.used if record else "none", time.perf_counter() - start)


def split_scenes(split: str, data: Path, wanted: Sequence[str] = ()) -> Iterator[tuple[str, ReferenceScene]]:
    """Scenes of one side of the sites, with their site."""
    table = tomllib.loads(SITES.read_text())
    responses = sentinel2_responses(data)
    for site, names in table[split].items():
        for name in names:
            if wanted and not any(word in name for word in wanted):
                continue
            file = next(iter([*data.glob(f"cubes/{name}.npz"), *data.glob(f"*/{name}.tif")]), None)
            if file is None:
                raise SystemExit(f"There is no cube {name} in {data}.")
            cube, own = read_cube(file)
            target = None if name in table["bands"]["own"] else prisma_like_bands()
            yield site, ReferenceScene.make(name, cube, own, responses, target=target, file=name)


def make_pair(
    scene: ReferenceScene, setting: str, change: str, seed: int, *, ratio: int = RATIO
) -> tuple[WaldPair, BoolArray]:
    """A pair and where its guide shows something else."""
    if change == "none":
        guide, mask = scene.msi, np.zeros(scene.msi.shape[1:], bool)
    else:
        guide, mask = changed_guide(scene.msi, change, seed)
    if setting == "real":
        pair = real_pair(scene, guide, ratio, seed)
    else:
        pair = reduce_scene(scene.cube, guide, ratio, CONDITIONS[setting], name=scene.name, seed=seed)
    rows, cols = pair.msi.shape[1:]
    return pair, mask[:rows, :cols]


def psnr(truth: FloatCube, result: FloatCube, where: BoolArray | None = None) -> float | None:
    """Mean over the bands, each with its own maximum as peak; of some pixels only."""
    if where is not None and not where.any():
        return None
    square = (truth.astype(np.float64) - result) ** 2
    error = square.mean(axis=(1, 2)) if where is None else square[:, where].mean(axis=1)
    peak = truth.max(axis=(1, 2)).astype(np.float64) ** 2
    return float((10.0 * np.log10(peak / np.maximum(error, 1e-20))).mean())


def area_under_curve(score: FloatCube, truth: BoolArray) -> float | None:
    """Of the receiver operating characteristic; None where one class is empty."""
    if not truth.any() or truth.all():
        return None
    rank, positive = rankdata(score.ravel()), int(truth.sum())
    return float((rank[truth.ravel()].sum() - positive * (positive + 1) / 2) / (positive * (truth.size - positive)))


def error_beside(error: FloatCube) -> FloatCube:
    """Root mean square error of the pixels around each one, without its own: what knowing these would tell."""
    impulse = np.zeros((9, 9))
    impulse[4, 4] = 1.0
    own = float(gaussian_filter(impulse, BESIDE_PX)[4, 4])
    square = error.astype(np.float64) ** 2
    around = (gaussian_filter(square, BESIDE_PX, mode="mirror") - own * square) / (1.0 - own)
    return np.asarray(np.sqrt(np.maximum(around, 0.0)), np.float32)


def score(pair: WaldPair, mask: BoolArray, found: Fused) -> dict[str, Any]:
    """Every figure of a result."""
    all_of_it = score_all(pair.truth, found.cube, RATIO).to_json()
    record: dict[str, Any] = {"PSNR": all_of_it["PSNR"], "SAM": all_of_it["SAM"], "ERGAS": all_of_it["ERGAS"]}
    record |= {"inside": psnr(pair.truth, found.cube, mask), "outside": psnr(pair.truth, found.cube, ~mask)}
    record |= {"used": found.used, "seconds": round(found.seconds, 2)}
    if found.repair is not None:
        error = np.sqrt(((pair.truth - found.cube) ** 2).mean(axis=0))
        expected = found.repair.expected_error
        # As the layer of confidence has it: expected error over brightness as the HSI shows it.
        relative = error / np.sqrt((pair.truth.astype(np.float64) ** 2).mean(axis=0) + 1e-12)
        stated = expected / np.maximum(found.repair.brightness, LEAST_BRIGHTNESS)
        record |= {
            "auc": area_under_curve(found.repair.change, mask),
            "flagged": float((found.repair.change[~mask] > 0.5).mean()),
            "replaced": float(found.repair.share),
            "trusted": found.repair.trusted,
            "spearman": float(spearmanr(error.ravel(), expected.ravel()).statistic),
            "beside": float(spearmanr(error.ravel(), error_beside(error).ravel()).statistic),
            "coverage": float((error < found.repair.error_bound * expected).mean()),
            "spearman_relative": float(spearmanr(relative.ravel(), stated.ravel()).statistic),
            PIXELS: np.stack([each.ravel() for each in (error, expected, relative, stated)]).astype(np.float32),
        }
    return record


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for site, scene in split_scenes(args.split, args.data, args.scenes):
        for setting in args.settings:
            for change in args.changes:
                pair, mask = make_pair(scene, setting, change, args.seed)
                about = {"site": site, "scene": scene.name, "setting": setting, "change": change}
                interpolated = Fused(upsample_array(pair.hsi, RATIO), None, "none", 0.0)
                results = [("bicubic", interpolated)]
                jobs = [(f"{m}+alone", m, None) for m in args.methods]
                jobs += [
                    (f"{m}+{q}", m, q)
                    for m in args.methods
                    if ":" not in m and m in args.refined
                    for q in args.qualities
                ]
                for label, method, quality in jobs:
                    try:
                        results.append((label, fused_pair(scene, pair, quality, method, blind=args.blind)))
                    except Exception as error:
                        print(f"{scene.name} {setting} {change} {label} FAILED: {error!r}"[:300], flush=True)
                for label, found in results:
                    records.append(about | {"method": label} | score(pair, mask, found))
                print(_line(about, records[-len(results) :]), flush=True)
                if args.json:
                    written = [{key: value for key, value in r.items() if key != PIXELS} for r in records]
                    args.json.write_text(json.dumps(written, indent=0) + "\n", encoding="utf-8")
    return records


def _line(about: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    text = f"{about['scene']:26s} {about['setting']:6s} {about['change']:8s}"
    for r in records:
        text += f" | {r['method']} {r['PSNR']:.2f}/{r['SAM']:.2f}"
        if r["inside"] is not None:
            text += f" in {r['inside']:.2f} out {r['outside']:.2f}"
        if "auc" in r:
            text += f" flag {100 * r['flagged']:.2f}% rho {r['spearman']:.2f} relative {r['spearman_relative']:.2f}"
            text += f" cov {r['coverage']:.2f} {r['used']}"
            text += "" if r["auc"] is None else f" auc {r['auc']:.4f}"
            text += "" if r["trusted"] else " UNTRUSTED"
    return text


def rank_over_all(pixels: Sequence[FloatCube]) -> tuple[float, float]:
    """Spearman of the expected error over all pixels of several scenes together: absolute, and relative."""
    if not pixels:
        return float("nan"), float("nan")
    error, expected, relative, stated = np.concatenate(pixels, axis=1)
    return float(spearmanr(error, expected).statistic), float(spearmanr(relative, stated).statistic)


def summary(records: Sequence[dict[str, Any]], base: str = "glp+alone") -> str:
    """Means over the sites (each site's cubes count together as one)."""
    names = (
        "setting", "change", "method", "sites", "dPSNR", "worst", "SAM x", "inside - bicubic", "worst",
        "outside - unchanged", "AUC", "flagged %", "rho", "rho of the true error beside", "coverage",
        "rho of the relative error", "rho over all sites", "rho of the relative error over all sites",
    )  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    index = {(r["scene"], r["setting"], r["change"], r["method"]): r for r in records}
    groups = dict.fromkeys((r["setting"], r["change"], r["method"]) for r in records)
    for setting, change, method in groups:
        rows: dict[str, list[list[float]]] = {}
        pixels = [r[PIXELS] for r in records if PIXELS in r
                  and (r["setting"], r["change"], r["method"]) == (setting, change, method)]  # fmt: skip
        pooled = rank_over_all(pixels)
        for r in records:
            if (r["setting"], r["change"], r["method"]) != (setting, change, method):
                continue
            same, bicubic, unchanged = (index.get((r["scene"], setting, *key)) for key in
                                        ((change, base), (change, "bicubic"), ("none", base)))  # fmt: skip
            nan = float("nan")
            inside = r["inside"] - bicubic["inside"] if r["inside"] is not None and bicubic else nan
            where = r["outside"] if r["outside"] is not None else r["PSNR"]
            rows.setdefault(r["site"], []).append([
                r["PSNR"] - same["PSNR"] if same else nan, r["SAM"] / same["SAM"] if same else nan, inside,
                where - unchanged["PSNR"] if unchanged else nan,
                *(nan if r.get(key) is None else r[key] for key in CONFIDENCE),
            ])  # fmt: skip
        cubes = np.array([row for site in rows.values() for row in site])
        with np.errstate(all="ignore"):
            means = np.array([np.nanmean(np.array(site), axis=0) for site in rows.values()])
            mean, worst = np.nanmean(means, axis=0), np.nanmin(cubes, axis=0)
        cells = [setting, change, method, str(len(rows)), f"{mean[0]:+.2f}", f"{worst[0]:+.2f}", f"{mean[1]:.3f}",
                 f"{mean[2]:+.2f}", f"{worst[2]:+.2f}", f"{mean[3]:+.2f}", f"{mean[4]:.4f}", f"{100 * mean[5]:.2f}",
                 *(f"{value:.2f}" for value in (*mean[6:], *pooled))]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("+nan", "-").replace("nan", "-")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="validation")
    parser.add_argument("--scenes", nargs="*", default=[], help="only cubes whose name contains one of these")
    parser.add_argument("--settings", nargs="*", default=["35dB", "field"], choices=[*CONDITIONS, "real"])
    parser.add_argument("--changes", nargs="*", default=["none"], choices=["none", *CHANGES])
    parser.add_argument("--methods", nargs="*", default=["glp"], help="glp:textbook is the textbook's form")
    parser.add_argument("--refined", nargs="*", default=["glp"], help="methods that the step is put behind")
    parser.add_argument("--qualities", nargs="*", default=["fast", "standard", "best"])
    parser.add_argument("--blind", action="store_true", help="without the MSI's responses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every score to this file")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    return parser.parse_args(arguments)


def show(table: str, out: Path | None) -> None:
    """Print a table, and write it to a file."""
    if out:
        out.write_text(table + "\n", encoding="utf-8")
    print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    show(summary(run(args)), args.out)


if __name__ == "__main__":
    main()
