"""Fusion with the panchromatic image of a PRISMA product: quality and position of the 5 m cube against the truth.

    python benchmarks/pan.py --output OUT [--seeds 1 2] [--size 100] [--guides pan pan+s2]

Products are simulated from a landscape of 5 m, with the panchromatic camera's own response, blur, noise and a shift
against the VNIR cube. Every guide is run through ``hsfuse run``. A cube made with the panchromatic image alone lies
where the product says that it does, so the product's position error is taken out of the comparison; one made with
Sentinel-2 lies on Sentinel-2's grid, and nothing is taken out. The position error is the shift that brings the cube's
mean over 450 to 690 nm onto the truth's best.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage

from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.metrics.reference import ergas, psnr, sam_deg
from hsfuse.simulate.products import simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.spectral import BandTable
from hsfuse.workflows.run import fuse_scene

FloatCube = NDArray[np.float32]
EDGE_PX = 24
PAN_SHIFT_M = (3.5, -2.0)
METHODS = {"pan": ("bicubic", "gsa", "cnmf", "auto"), "pan+s2": ("bicubic", "auto")}


def true_cube(
    truth: Truth, grid: Grid, bands: BandTable, *, claimed: bool, shift_m: tuple[float, float] = (0.0, 0.0)
) -> FloatCube:
    """Reflectance of the ground at the pixels of a cube, (band, row, col).

    ``claimed``: the cube's positions are those that the panchromatic image claims, which looks ``shift_m`` beside.
    """
    row, col = np.meshgrid(np.arange(grid.height, dtype=float), np.arange(grid.width, dtype=float), indexing="ij")
    x, y = grid.xy(row, col)
    if claimed and truth.field is not None:
        dx, dy = truth.field.at(x, y)
        x, y = x + dx + shift_m[0], y + dy + shift_m[1]
    at = truth.grid.rowcol(*reproject_xy(grid.crs, truth.grid.crs, x, y))
    low = [int(np.floor(axis.min())) - 6 for axis in at]
    high = [int(np.ceil(axis.max())) + 7 for axis in at]
    block = Slice2D(low[0], high[0], low[1], high[1]).clipped(*truth.grid.shape)
    where = np.stack([at[0] - block.row0, at[1] - block.col0])
    out = np.empty((len(bands), *grid.shape), np.float32)
    for first in range(0, len(bands), 10):
        part = slice(first, min(first + 10, len(bands)))
        for band, seen in enumerate(truth.reflectance(bands.take(np.arange(part.start, part.stop)), block)):
            ndimage.map_coordinates(seen, where, output=out[first + band], order=3, mode="nearest")
    return out


def position_error_px(fused: FloatCube, truth: FloatCube, valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Shift (row, col) of an image against the truth, pixels: zero of the gradient of their squared difference."""
    f, t = (np.where(valid, image, image[valid].mean()) for image in (fused, truth))
    inner = ndimage.binary_erosion(valid, iterations=4)
    # Blur differs between both; what is compared is what both have.
    f, t = (ndimage.gaussian_filter(image, 1.5) - ndimage.gaussian_filter(image, 6.0) for image in (f, t))
    moved = np.zeros(2)
    for _ in range(6):
        image = ndimage.shift(t, moved, order=3, mode="nearest")
        down, right = np.gradient(image)
        design = np.stack([-down[inner], -right[inner], image[inner]])
        found = np.linalg.lstsq(design.T, (f - image)[inner], rcond=None)[0]
        moved += found[:2]
    return float(moved[0]), float(moved[1])


def scores(cube: Path, truth: Truth, *, claimed: bool, shift_m: tuple[float, float]) -> dict[str, float]:
    with rasterio.open(cube) as source:
        fused = source.read().astype(np.float32) * np.float32(1e-4)
        fused[source.read() == source.nodata] = np.nan
        grid = Grid(CRS.from_user_input(source.crs), source.transform, source.height, source.width)
        tags = [source.tags(i) for i in source.indexes]
    centre = [float(tag.get("wavelength", tag.get("WAVELENGTH", "nan"))) for tag in tags]
    fwhm = [float(tag.get("fwhm", tag.get("FWHM", "10"))) for tag in tags]
    bands = BandTable.make(centre, fwhm)
    want = true_cube(truth, grid, bands, claimed=claimed, shift_m=shift_m)
    valid = np.isfinite(fused).all(axis=0)
    edge = np.zeros_like(valid)
    edge[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] = True
    valid &= edge
    a, b = fused[:, valid][:, None], want[:, valid][:, None]
    visible = (np.asarray(centre) > 450.0) & (np.asarray(centre) < 690.0)
    row, col = position_error_px(fused[visible].mean(axis=0), want[visible].mean(axis=0), valid)
    return {
        "psnr_db": float(psnr(b, a)), "sam_deg": float(sam_deg(b, a)), "ergas": float(ergas(b, a, 6)),
        "east_m": col * grid.pixel_m, "north_m": -row * grid.pixel_m,
        "position_m": float(np.hypot(row, col)) * grid.pixel_m, "pixel_m": grid.pixel_m,
    }  # fmt: skip


def run(folder: Path, seed: int, size: int, guides: Sequence[str]) -> list[dict[str, Any]]:
    pair = simulate_pair(
        folder, size_px=(size, size), seed=seed, scene_pixel_m=5, s2_bands="10m", footprint_deg=0.0,
        shift_m=(143.0, -87.0), pan_shift_m=PAN_SHIFT_M, gain_spread=0.02,
    )  # fmt: skip
    truth = Truth.load(pair.truth)
    rows = []
    for guide in guides:
        for method in METHODS[guide]:
            output = folder / f"{guide.replace('+', '_')}_{method}.tif"
            begun = time.monotonic()
            result = fuse_scene(
                pair.prisma, None if guide == "pan" else pair.sentinel2, output, guide=guide, method=method,
                report=False, threads=1, overwrite=True,
            )  # fmt: skip
            found = scores(output, truth, claimed=guide == "pan", shift_m=PAN_SHIFT_M)
            summary = result.summary
            rows.append(
                {"seed": seed, "guide": guide, "method": method, "used": summary["method"]["name"], **found,
                 "seconds": round(time.monotonic() - begun, 1),
                 "response": (summary["guide"]["response"] or {}).get("text", ""),
                 "alignment_m": summary["coregistration"].get("rmse_m")}
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--size", type=int, default=100, help="side of the product, HSI pixels")
    parser.add_argument("--guides", nargs="*", default=list(METHODS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows += run(Path(folder), seed, given.size, given.guides)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "pan.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print("| guide | method | PSNR dB | SAM deg | ERGAS | position m | s |\n|---|---|---|---|---|---|---|")
    for guide, method in dict.fromkeys((row["guide"], row["method"]) for row in rows):
        of = [row for row in rows if (row["guide"], row["method"]) == (guide, method)]
        mean = {key: float(np.mean([row[key] for row in of])) for key in ("psnr_db", "sam_deg", "ergas", "seconds")}
        worst = max(row["position_m"] for row in of)
        print(f"| {guide} | {method} | {mean['psnr_db']:.2f} | {mean['sam_deg']:.2f} | {mean['ergas']:.2f} "
              f"| {worst:.2f} | {mean['seconds']:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
