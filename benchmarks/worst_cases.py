"""Worst cases: pairs drawn from training and validation sites in ways that no table holds, by criterion.

Every number draws a cube, a cut, a turn, half of the resolution, fewer bands, a ratio, a setting, a change and a seed.
Printed are the cases that lose most: inside of a change below interpolation, outside of it and on unchanged pairs below
the method alone, unchanged ground that is taken for changed, and whatever ends below interpolation.

    python benchmarks/worst_cases.py --data ../shared/data --numbers 0 300 --json before.json
    python benchmarks/worst_cases.py --data ../shared/data --numbers 0 300 --compare before.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quality_scenes import ReferenceScene
from real_pairs import fused_pair, make_pair, psnr, split_scenes

from hsfuse.degrade import upsample_array
from hsfuse.errors import HsfuseError

FloatCube = NDArray[np.float32]
VNIR_NM = 905.0
_LEAST_HALVED_PX = 95
"""Shorter side of a cube that is shown at half of its resolution at least."""
_MOST_SHOWN = 15


@dataclass(frozen=True)
class Case:
    """What a number draws."""

    scene: ReferenceScene
    about: str
    setting: str
    change: str
    ratio: int
    blind: bool
    seed: int


def draw(cubes: Sequence[tuple[str, ReferenceScene]], number: int) -> Case:
    """Draw a case from the cubes and their sites; equal numbers draw equal ones."""
    rng = np.random.default_rng([number, 99])
    sites = sorted({site for site, _ in cubes})
    site = sites[int(rng.integers(len(sites)))]
    scenes = [scene for own, scene in cubes if own == site]
    scene = scenes[int(rng.integers(len(scenes)))]
    about = [scene.name]
    if rng.random() < 0.25 and min(scene.cube.shape[1:]) >= _LEAST_HALVED_PX:
        scene = _changed(scene, _halved)
        about.append("half")
    if rng.random() < 0.4:
        place = []
        for size in scene.cube.shape[1:]:
            length = min(int(rng.choice([39, 48, 60, 75, 90])), size)
            start = int(rng.integers(size - length + 1))
            place.append(slice(start, start + length))
        scene = _changed(scene, lambda image: image[:, *place])
        about.append("cut")
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    scene = _changed(scene, lambda image: np.rot90(image[:, :, ::-1] if mirrored else image, turns, (1, 2)))
    kept = np.arange(len(scene.cube))
    drawn = rng.random()
    if drawn < 0.12:
        kept = np.flatnonzero(scene.bands.centre_nm < VNIR_NM)
        about.append("VNIR")
    elif drawn < 0.2:
        kept = np.unique(np.linspace(0, kept.size - 1, int(rng.choice([30, 62]))).round().astype(int))
        about.append(f"{kept.size} bands")
    scene = replace(scene, cube=scene.cube[kept], bands=scene.bands.take(kept), srf=scene.srf[:, kept])
    ratio = int(rng.choice([3, 3, 3, 3, 3, 2, 4]))
    scene = _changed(
        scene, lambda image: image[:, : image.shape[1] // ratio * ratio, : image.shape[2] // ratio * ratio]
    )
    setting = str(rng.choice(["35dB", "35dB", "field", "field", "real"]))
    change = str(rng.choice(["none", "parcels", "parcels", "cloud", "shadow", "mix", "season", "haze"]))
    blind = bool(change == "none" and rng.random() < 0.6)
    return Case(scene, " ".join(about), setting, change, ratio, blind, int(rng.integers(1, 7)))


def _changed(scene: ReferenceScene, change: Callable[[FloatCube], FloatCube]) -> ReferenceScene:
    cube, msi = (np.ascontiguousarray(change(image)) for image in (scene.cube, scene.msi))
    return replace(scene, cube=cube, msi=msi)


def _halved(image: FloatCube) -> FloatCube:
    rows, cols = (size // 2 for size in image.shape[1:])
    blocks = image[:, : 2 * rows, : 2 * cols].reshape(len(image), rows, 2, cols, 2)
    return np.asarray(blocks.mean(axis=(2, 4)), np.float32)


def score(case: Case, method: str, quality: str) -> dict[str, Any]:
    """Fuse a case; gains in dB over interpolation and over the method alone on the unchanged pair."""
    pair, mask = make_pair(case.scene, case.setting, case.change, case.seed, ratio=case.ratio)
    found = fused_pair(case.scene, pair, quality, method, blind=case.blind, ratio=case.ratio)
    same, _ = make_pair(case.scene, case.setting, "none", case.seed, ratio=case.ratio)
    alone = fused_pair(case.scene, same, None, method, blind=case.blind, ratio=case.ratio).cube
    interpolated = upsample_array(pair.hsi, case.ratio)
    truth, repair = pair.truth, found.repair
    if repair is None:
        raise HsfuseError("A quality repairs the guide.")
    record: dict[str, Any] = {
        "over interpolation": _gain(truth, found.cube, interpolated, None),
        "flagged %": 100.0 * float((repair.change[~mask] > 0.5).mean()),
        "trusted": repair.trusted, "used": found.used,
        "displacement": repair.facts["displacement_px"], "corrections": repair.facts["local_corrections"],
    }  # fmt: skip
    if case.change == "none":
        return record | {"unchanged": _gain(truth, found.cube, alone, None)}
    return record | {
        "inside": _gain(truth, found.cube, interpolated, mask), "outside": _gain(truth, found.cube, alone, ~mask)
    }  # fmt: skip


def _gain(truth: FloatCube, result: FloatCube, other: FloatCube, where: NDArray[np.bool_] | None) -> float | None:
    found, beside = (psnr(truth, each, where) for each in (result, other))
    return None if found is None or beside is None else found - beside


def table(records: Sequence[dict[str, Any]], former: dict[int, dict[str, Any]]) -> str:
    """Worst cases by criterion, beside what ``former`` has of them, and how many do not hold what is asked."""
    criteria = (("inside", -0.5), ("outside", -1.0), ("unchanged", -0.05), ("over interpolation", 0.0))
    lines = []
    for name, least in criteria:
        told = sorted((r for r in records if r.get(name) is not None), key=lambda r: float(r[name]))
        below = [r for r in told if r[name] < least]
        mean = float(np.mean([r[name] for r in told])) if told else float("nan")
        lines.append(f"{name}: {len(below)} of {len(told)} below {least:g} dB, mean {mean:+.2f}")
        lines += [_line(r, name, former) for r in below[:_MOST_SHOWN]]
    flagged = [r for r in records if "unchanged" in r and r["flagged %"] > 0.5]
    lines.append(f"flagged: {len(flagged)} unchanged pairs above 0.5 % of their ground")
    lines += [_line(r, "flagged %", former) for r in flagged]
    return "\n".join(lines)


def _line(record: dict[str, Any], name: str, former: dict[int, dict[str, Any]]) -> str:
    before = former.get(record["number"], {}).get(name)
    text = f"  {record['number']:5d} {record['about']:34s} {record['setting']:6s} {record['change']:8s}"
    text += f" ratio {record['ratio']} seed {record['seed']} {record['hsi']}{' blind' if record['blind'] else ''}:"
    text += "" if before is None else f" {before:+.2f} ->"
    return text + f" {record[name]:+.2f}{'' if record['trusted'] else ' UNTRUSTED'}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument("--numbers", type=int, nargs=2, default=[0, 300], metavar=("FIRST", "LAST"))
    parser.add_argument("--method", default="glp")
    parser.add_argument("--quality", default="standard", choices=["fast", "standard", "best"])
    parser.add_argument("--json", type=Path, help="write every score to this file")
    parser.add_argument("--compare", type=Path, help="scores of another run, to stand beside")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    cubes = [each for split in ("train", "validation") for each in split_scenes(split, args.data)]
    records: list[dict[str, Any]] = []
    for number in range(*args.numbers):
        case = draw(cubes, number)
        about = {
            "number": number, "about": case.about, "setting": case.setting, "change": case.change,
            "ratio": case.ratio, "blind": case.blind, "seed": case.seed,
            "hsi": "x".join(str(size // case.ratio) for size in case.scene.cube.shape[1:]),
        }  # fmt: skip
        try:
            records.append(about | score(case, args.method, args.quality))
        except HsfuseError as error:
            print(f"{number} {case.about} {case.setting} {case.change} ratio {case.ratio}: {error.message}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(records, indent=0) + "\n", encoding="utf-8")
    former = {r["number"]: r for r in json.loads(args.compare.read_text())} if args.compare else {}
    print(table(records, former))


if __name__ == "__main__":
    main()
