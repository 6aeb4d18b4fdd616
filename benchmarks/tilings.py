"""Every method in tiles and in one tile on an area of a pair: how far the two cubes are apart, reflectance.

    python benchmarks/tilings.py PRISMA.he5 S2.SAFE --aoi 725490,4965660,727290,4967460

Runs are those of `hsfuse run` with its defaults, precision included, but in float32 and uncompressed. Choose an area
with texture: where a method does nothing, tilings are equal anyway. `--guide pan` takes the product's own panchromatic
band.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hsfuse
from hsfuse.errors import HsfuseError
from hsfuse.fusion.nets.zoo import list_models
from hsfuse.fusion.registry import METHODS
from hsfuse.workflows.demo import read_cube

ALLOWED = 5e-4
"""Reflectance: five steps of the stored integers."""
ONE_TILE = 100_000


def methods(words: Sequence[str]) -> list[str]:
    """Every method that can run: classics, and networks with weights."""
    trained = {model.name for model in list_models() if model.weights is not None}
    found = [name for name, entry in METHODS.entries() if entry.network is None or name in trained]
    return [name for name in found if not words or name in words]


def compare(name: str, inputs: tuple[Path, Path | None], tile: int, folder: Path, **settings: Any) -> tuple[str, float]:
    """A line of the table, and the largest difference."""
    cubes, facts = [], {}
    for number, side in enumerate((tile, ONE_TILE)):
        run = hsfuse.fuse_scene(
            *inputs, folder / f"{name}_{number}.tif", method=name, tile=side, dtype="float32", compress="none",
            report=False, overwrite=True, **settings,
        )  # fmt: skip
        cubes.append(read_cube(run.output))
        facts = facts or run.summary
    apart = np.abs(cubes[0] - cubes[1])
    validation = facts["method"].get("validation") or {}
    share = validation.get("share")
    used = "-" if share is None else f"{100 * float(np.mean(share)):.0f} %"
    largest, rms = float(np.nanmax(apart)), float(np.sqrt(np.nanmean(apart**2)))
    plan, precision = facts["plan"], facts["method"]["precision"]
    return f"| {name} | {precision} | {used} | {plan['tiles']} | {largest:.6f} | {rms:.7f} |", largest


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hsi", type=Path)
    parser.add_argument("msi", type=Path, nargs="?")
    parser.add_argument("--aoi", help="what is fused; default: all")
    parser.add_argument("--tile", type=int, default=96, help="side of the tiles, fine pixels")
    parser.add_argument("--guide", default="s2", choices=["s2", "pan", "pan+s2"])
    parser.add_argument("--methods", nargs="*", default=[], help="default: everything that can run")
    args = parser.parse_args(arguments)
    print("| method | arithmetic | correction used | tiles | largest difference | root mean square |\n|" + "---|" * 6)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in methods(args.methods):
            try:
                line, largest = compare(
                    name, (args.hsi, args.msi), args.tile, Path(folder), aoi=args.aoi, guide=args.guide
                )  # fmt: skip
            except HsfuseError as error:
                line, largest = f"| {name} | left out: {error.message} | | | | |", 0.0
            worst = max(worst, largest)
            print(line, flush=True)
    if worst > ALLOWED:
        sys.exit(f"Tilings differ by {worst:.6f}, more than {ALLOWED}.")


if __name__ == "__main__":
    main()
