"""What adapting a network to its scene gains: mosaics of measured cubes, and simulated products.

    python benchmarks/adaptation.py --data ../shared/data
    python benchmarks/adaptation.py --products FOLDER [FOLDER ...]

Mosaics: tiles of all validation and test sites of sites.toml that reach into the short-wave infrared, side by side, but
of those that the record of the network's training names, so that nothing of them was in it. ``--turned`` repeats them
turned and mirrored, up to 272 x 272 HSI pixels at a ratio of 3. Folders of products come from ``hsfuse simulate``, or
from full_scene.py, with ``truth.npz``: the network learns from the whole pair, zero-shot and adapted, and both are
scored in nine windows spread over it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import run
from quality_scenes import FloatCube, ReferenceScene, prisma_like_bands, read_cube, resample_bands, sentinel2_responses

from hsfuse.config import RunConfig
from hsfuse.fusion.base import FusionMethod, Quality
from hsfuse.fusion.map.method import refined
from hsfuse.grid import Slice2D
from hsfuse.inference.pipeline import scene_context
from hsfuse.inference.scene import FusionScene
from hsfuse.progress import SilentProgress
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.wald import CONDITIONS, reduce_scene
from hsfuse.spectral import srf_weights
from hsfuse.workflows.steps.adapt import adapt
from hsfuse.workflows.steps.inputs import open_pair
from hsfuse.workflows.steps.method_specification import MethodSpecification, parse_specification
from hsfuse.workflows.steps.prepare import prepare_scene

SITES = Path(__file__).parent / "sites.toml"
TILE_PX, RATIO = 48, 3
WINDOW_PX, MARGIN_PX = 100, 24
"""Of the windows that are scored, HSI pixels, and context around them."""
SHORTWAVE_NM = 2000.0


def tiles(data: Path, trained_on: Sequence[str]) -> Iterator[tuple[FloatCube, FloatCube]]:
    """Give tiles with 100 PRISMA-like bands, and what Sentinel-2 sees of them; none of a training's scenes."""
    table, responses, target = tomllib.loads(SITES.read_text()), sentinel2_responses(data), prisma_like_bands()
    names = [name for split in ("test", "validation") for site in table[split].values() for name in site]
    for name in names:
        path = data / "cubes" / f"{name}.npz"
        if not path.is_file() or any(name in scene for scene in trained_on):
            continue
        cube, bands = read_cube(path)
        weights = srf_weights(bands, responses)
        if bands.centre_nm.max() < SHORTWAVE_NM or (weights.sum(axis=1) <= 0).any():
            continue
        sharp, seen = resample_bands(cube, bands, target), np.tensordot(weights, cube, axes=1).astype(np.float32)
        rows, cols = (range(0, size - TILE_PX + 1, TILE_PX) for size in cube.shape[1:])
        for row, col in itertools.product(rows, cols):
            part = (..., slice(row, row + TILE_PX), slice(col, col + TILE_PX))
            yield sharp[part], seen[part]


def mosaic(data: Path, trained_on: Sequence[str], *, turned: bool) -> ReferenceScene:
    """Lay the tiles side by side in a square, in an order drawn once."""
    found = list(tiles(data, trained_on))
    if turned:
        found = [tuple(oriented(image, turns, flip) for image in pair)  # type: ignore[misc]
                 for turns in range(4) for flip in (False, True) for pair in found]  # fmt: skip
    side = int(np.sqrt(len(found)))
    order = np.random.default_rng(0).permutation(len(found))[: side**2].reshape(side, side)
    sharp, seen = (
        np.concatenate([np.concatenate([found[i][kind] for i in row], axis=2) for row in order], axis=1)
        for kind in (0, 1)
    )
    responses, target = sentinel2_responses(data), prisma_like_bands()
    name = f"mosaic of {side**2} tiles" + (", turned and mirrored" if turned else "")
    return ReferenceScene(name, sharp, seen, target, srf_weights(target, responses), tuple(responses), "mosaic")


def oriented(image: FloatCube, turns: int, flip: bool) -> FloatCube:
    """Turn and mirror (band, row, col)."""
    found = np.rot90(image, turns, (1, 2))
    return found[..., ::-1] if flip else found


def row(name: str, setting: str, size: tuple[int, ...], before: float, after: float, record: dict[str, Any]) -> str:
    held = record["before"]["gain_db"], record["after"]["gain_db"]
    return (
        f"| {name} | {setting} | {size[0]} x {size[1]} | {before:.2f} | {after:.2f} | **{after - before:+.2f}** | "
        f"{held[0]:+.2f} to {held[1]:+.2f} | {record['steps']} in {record['seconds']:.0f} s |"
    )


def products(folder: Path, spec: MethodSpecification, minutes: float, quality: Quality) -> str:
    """Learn from the whole pair zero-shot and adapted, and score both in windows spread over it."""
    config = RunConfig(method=spec.name, quality=quality)
    with ExitStack() as stack:
        pair = open_pair(next(folder.glob("PRS_*.he5")), [next(folder.glob("S2*.SAFE"))], config, stack)
        scene = prepare_scene(pair, config, SilentProgress()).scene
        context, strips = scene_context(scene, "cpu", 0), list(scene.low_resolution_strips())
        method, adapted = spec.create(), spec.create()
        result = adapt(adapted, scene, minutes=minutes, base=spec.header().base, quality=quality)
        methods = [refined(one, quality, ratio=scene.ratio) for one in (method, adapted)]
        for one in methods:
            one.fit(context, strips)
        before, after = psnr_db(scene, Truth.load(folder / "truth.npz"), methods)
    return row(f"{folder.name}, simulated", quality, scene.grid.shape, before, after, result.to_json())


def psnr_db(scene: FusionScene, truth: Truth, methods: Sequence[FusionMethod]) -> list[float]:
    """Mean PSNR over the bands, in windows spread over a scene."""
    bands, ratio = scene.hsi.bands.take(scene.bands), scene.ratio
    errors, peak, count = np.zeros((len(methods), len(bands))), np.zeros(len(bands)), 0
    for block in windows(*scene.grid.shape):
        wide = Slice2D(
            block.row0 - MARGIN_PX, block.row1 + MARGIN_PX, block.col0 - MARGIN_PX, block.col1 + MARGIN_PX
        ).clipped(*scene.grid.shape)  # fmt: skip
        seen = scene.read(wide)
        inner = Slice2D(
            block.row0 - wide.row0, block.row1 - wide.row0, block.col0 - wide.col0, block.col1 - wide.col0
        ).scaled(ratio).slices  # fmt: skip
        fine = scene.fine_grid.crop(block.scaled(ratio))
        reference = truth.reflectance(bands, fine.block_in(truth.grid))
        valid = seen.valid[inner] & np.isfinite(reference).all(axis=0)
        if not valid.any():
            continue
        sharp = reference[:, valid]
        peak, count = np.maximum(peak, sharp.max(axis=1)), count + int(valid.sum())
        hsi, msi = (torch.from_numpy(np.ascontiguousarray(image))[None] for image in (seen.hsi, seen.msi))
        for sums, method in zip(errors, methods, strict=True):
            fused = method.fuse(hsi, msi)[0].numpy()[:, *inner]
            sums += np.square(fused[:, valid] - sharp, dtype=np.float64).sum(axis=1)
    return [float(np.mean(10.0 * np.log10(peak**2 / (sums / count)))) for sums in errors]


def windows(height: int, width: int) -> list[Slice2D]:
    """Nine windows of a scene, HSI pixels."""
    side = min(WINDOW_PX, height // 4, width // 4)
    rows, cols = (np.linspace(0.0, 1.0, 5)[1:-1] * size - side / 2 for size in (height, width))
    return [Slice2D(int(r), int(r) + side, int(c), int(c) + side) for r in rows for c in cols]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with cubes/ and srf/")
    parser.add_argument(
        "--products", type=Path, nargs="*", default=[], help="folders of simulated products; no mosaics"
    )
    parser.add_argument("--turned", action="store_true", help="tiles of the mosaic also turned and mirrored")
    parser.add_argument("--settings", nargs="*", default=["35dB", "field"], choices=list(CONDITIONS))
    parser.add_argument("--method", default="ssrfn-lite")
    parser.add_argument("--quality", default="standard", choices=["standard", "best"], help="of products")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {given.method}\n")
    print("| scene | setting | HSI px | zero-shot, dB | adapted, dB | gain, dB | gain on held-out windows | steps |")
    print("|---|---|---|---|---|---|---|---|")
    spec = parse_specification(given.method)
    for folder in given.products:
        print(products(folder, spec, given.minutes, given.quality), flush=True)
    if given.products:
        return
    scene = mosaic(given.data, spec.header().training.get("scenes", []), turned=given.turned)
    for setting in given.settings:
        pair = reduce_scene(scene.cube, scene.msi, RATIO, CONDITIONS[setting], name=scene.name)
        before = run(spec, scene, pair, RATIO, "cpu")
        after = run(replace(spec, adapt_minutes=given.minutes), scene, pair, RATIO, "cpu")
        scores = before["PSNR"], after["PSNR"]
        print(row(scene.name, setting, pair.hsi.shape[1:], *scores, after["adaptation"]), flush=True)


if __name__ == "__main__":
    main()
