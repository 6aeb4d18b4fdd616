"""A second date of the guide: what it brings, and what useless ones cost, on one side of sites.

Pairs are those of real_pairs.py. The partner shows the same ground with noise of its own, with phenology by fields,
another sun on relief, fine texture that comes and goes, another calibration, and other ground in 10 % of it; it may lie
beside the guide, have clouds (masked or not), stripes, or show another place altogether.

    python benchmarks/partners.py --data ../shared/data --split validation --partners same near far
    python benchmarks/partners.py --split test --changes none parcels --methods glp ssrfn --out table.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pair_changes import blobs, parcels, smooth_noise
from quality_scenes import ReferenceScene
from real_pairs import RATIO, fused_pair, make_pair, parse, psnr, show, split_scenes
from scipy.ndimage import shift
from scipy.spatial import cKDTree

from hsfuse.metrics.reference import score_all
from hsfuse.simulate.wald import CONDITIONS, reduce_scene

FloatCube = NDArray[np.float32]
KINDS = ("same", "near", "far", "shifted", "clouds", "missed", "stripes", "other")
"""The same ground but for noise; days and months later; near and 0.3 pixels beside the guide; near and 30 % under
clouds, masked and missed; near with stripes of 3 %; another place."""
AMPLITUDE, TEXTURE = {"near": 0.06, "far": 0.20}, {"near": 0.005, "far": 0.02}
FIELD_PX, CHANGED_SHARE, CLOUD_SHARE = 250, 0.10, 0.3
PHENOLOGY = (-0.3, -0.3, -1.0, 0.6)
"""Of blue, green, red and near infrared, relative to the amplitude, where plants are."""


def partner_ground(msi: FloatCube, kind: str, seed: int) -> FloatCube:
    """What a partner shows without noise, shape (msi band, row, col); NaN under masked clouds."""
    rng = np.random.default_rng([seed, 77])
    shape = msi.shape[1:]
    if kind == "same":
        return msi
    if kind == "other":
        return np.ascontiguousarray(np.rot90(np.roll(msi, (shape[0] // 3, shape[1] // 3), (1, 2)), 2, (1, 2)))
    strength = kind if kind in AMPLITUDE else "near"
    amplitude = AMPLITUDE[strength]
    count = max(shape[0] * shape[1] // FIELD_PX, 4)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    places = rng.uniform(0.0, 1.0, (count, 2)) * shape
    field = cKDTree(places).query(np.stack([rows.ravel(), cols.ravel()], 1))[1].reshape(shape)
    out = msi.astype(np.float64)
    index = (out[3] - out[2]) / np.maximum(out[3] + out[2], 1e-4)
    plants = np.clip((index - 0.25) / 0.3, 0.0, 1.0)
    grown = 0.7 * rng.normal(0.0, 1.0, count)[field] + 0.7 * smooth_noise(shape, 10.0, rng)
    by_band = np.array([PHENOLOGY[min(band, 3)] for band in range(len(msi))])
    out *= 1.0 + amplitude * grown * plants * by_band[:, None, None]
    out *= 1.0 + 0.5 * amplitude * rng.normal(0.0, 1.0, count)[field] * (1.0 - plants)
    out *= 1.0 + 0.25 * amplitude * smooth_noise(shape, 4.0, rng)
    out *= 1.0 + TEXTURE[strength] * smooth_noise(shape, 0.7, rng)
    gain, offset = rng.uniform(-0.06, 0.06, len(msi)), rng.uniform(-0.01, 0.01, len(msi)) * out.mean()
    out = out * (1.0 + gain[:, None, None]) + offset[:, None, None]
    other = np.roll(msi, (shape[0] // 2 + 3, shape[1] // 2 - 4), axis=(1, 2))
    out = np.where(parcels(shape, CHANGED_SHARE, rng), other, out)
    if kind == "shifted":
        out = np.stack([shift(image, (0.3, -0.2), order=5, mode="mirror") for image in out])
    elif kind == "stripes":
        out *= 1.0 + 0.03 * rng.normal(0.0, 1.0, shape[1])
    elif kind in ("clouds", "missed"):
        out[:, blobs(shape, CLOUD_SHARE, 8.0, rng)] = np.nan if kind == "clouds" else 0.9 * float(out.max())
    return out.astype(np.float32)


def partner_image(scene: ReferenceScene, kind: str, setting: str, seed: int) -> FloatCube:
    """A partner as it is measured."""
    ground = partner_ground(scene.msi, kind, seed)
    gaps = np.isnan(ground)
    filled = np.where(gaps, scene.msi, ground)
    condition = CONDITIONS["35dB" if setting == "real" else setting]
    image = reduce_scene(scene.cube, filled, RATIO, condition, name=scene.name, seed=seed + 1000).msi
    image[gaps[:, : image.shape[1], : image.shape[2]]] = np.nan
    return image


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for site, scene in split_scenes(args.split, args.data, args.scenes):
        for setting in args.settings:
            for change in args.changes:
                pair, mask = make_pair(scene, setting, change, args.seed)
                for method in args.methods:
                    base: dict[str, float | None] = {}
                    for kind in ("none", *args.partners):
                        some = range(0 if kind == "none" else args.count)
                        images = [partner_image(scene, kind, setting, 10 * args.seed + number) for number in some]
                        made = fused_pair(scene, pair, args.quality, method, partners=images)
                        cube, found = made.cube, [] if made.repair is None else made.repair.facts.get("partners", [])
                        scores = {
                            "PSNR": psnr(pair.truth, cube), "inside": psnr(pair.truth, cube, mask),
                            "outside": psnr(pair.truth, cube, ~mask),
                            "SAM": float(score_all(pair.truth, cube, RATIO).to_json()["SAM"]),
                        }  # fmt: skip
                        base = base or scores
                        gains = {f"d{k}": None if v is None else v - base[k] for k, v in scores.items()}  # type: ignore[operator]
                        about = {"site": site, "scene": scene.name, "setting": setting, "change": change}
                        records.append(about | {"method": method, "partner": kind, "found": found} | scores | gains)
                        if kind != "none":
                            print(_line(records[-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(records, indent=0) + "\n", encoding="utf-8")
    return records


def _line(record: dict[str, Any]) -> str:
    inside = "" if record["dinside"] is None else f" in {record['dinside']:+.2f} out {record['doutside']:+.2f}"
    found = ", ".join(f"left {f['noise_left']:.2f} shown {100 * f['replaced_share']:.1f} % at {f['offset_px']}"
                      for f in record["found"])  # fmt: skip
    return (
        f"{record['scene']:26s} {record['setting']:6s} {record['change']:8s} {record['method']:6s} "
        f"{record['partner']:8s} {record['dPSNR']:+.2f} SAM {record['dSAM']:+.3f}{inside} | {found}"
    )


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Means over the sites (each site's cubes count together as one), and the worst cube."""
    lines = ["| setting | change of the guide | method | partner | dPSNR | worst | inside | outside | SAM x |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    keys = dict.fromkeys((r["setting"], r["change"], r["method"], r["partner"]) for r in records)
    for key in keys:
        if key[3] == "none":
            continue
        chosen = [r for r in records if (r["setting"], r["change"], r["method"], r["partner"]) == key]
        by_site: dict[str, list[list[float]]] = {}
        for r in chosen:
            values = [r["dPSNR"], r["dinside"], r["doutside"], r["SAM"] / (r["SAM"] - r["dSAM"])]
            by_site.setdefault(r["site"], []).append([np.nan if v is None else v for v in values])
        mean = np.mean([np.mean(site, axis=0) for site in by_site.values()], axis=0)
        worst = min(r["dPSNR"] for r in chosen)
        cells = [*key, f"{mean[0]:+.2f}", f"{worst:+.2f}", f"{mean[1]:+.2f}", f"{mean[2]:+.2f}", f"{mean[3]:.3f}"]
        lines.append("| " + " | ".join(cells).replace("+nan", "-") + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--partners", nargs="*", default=["same", "near", "far"], choices=KINDS)
    own.add_argument("--count", type=int, default=1, help="partners of each kind at a time")
    own.add_argument("--quality", default="standard", choices=["fast", "standard", "best"])
    known, rest = own.parse_known_args(arguments)
    args = parse(rest)
    for name, value in vars(known).items():
        setattr(args, name, value)
    torch.set_num_threads(args.threads)
    show(summary(run(args)), args.out)


if __name__ == "__main__":
    main()
