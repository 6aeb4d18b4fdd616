"""A whole PRISMA scene against a whole Sentinel-2 tile: time per stage, peak memory, position and reflectance error.

    python benchmarks/full_scene.py WORK_FOLDER [--method auto] [--flags "--quality plain"] [--resume] [--quick]

Simulates the pair once (about 1.7 GB of PRISMA product and a 10980 x 10980 tile), runs ``hsfuse run`` in a process of
its own and prints a Markdown table: seconds by the clock and of processor time, the share of the cores that was used,
peak memory as the system counts it. ``--resume`` kills a second run when half of the rows are safe, goes on with it and
compares the cube and its confidence layer byte for byte. ``--quick`` leaves the truth out. Position error: the
estimated field against the known one at every 7th imaged pixel, and the offset that aligns fused windows best with the
truth, in metres.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from machine_speed import machine_speed
from rasterio.windows import Window
from scipy.ndimage import shift as move

from hsfuse.grid import Slice2D
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.scene import Truth

SIDE_PX = 300
KILLED_AT = 0.5
"""Share of the rows that are safe when a run is killed."""


def pair_of(folder: Path, rows: int, cols: int) -> tuple[Path, Path, Path]:
    """Simulate, or find what an earlier call left."""
    if not (folder / "truth.npz").is_file():
        pair: SimulatedPair = simulate_pair(
            folder, size_px=(rows, cols), seed=0, full_tile=True, s2_bands="10m", cloud_fraction=0.03
        )
        return pair.prisma, pair.sentinel2, pair.truth
    return next(folder.glob("PRS_*.he5")), next(folder.glob("S2*.SAFE")), folder / "truth.npz"


def windows(height: int, width: int) -> list[Slice2D]:
    """Nine windows spread over the scene."""
    rows = np.linspace(0.3, 0.7, 3) * height - SIDE_PX / 2
    cols = np.linspace(0.3, 0.7, 3) * width - SIDE_PX / 2
    return [Slice2D(int(r), int(r) + SIDE_PX, int(c), int(c) + SIDE_PX) for r in rows for c in cols]


def offset_m(reference: np.ndarray, estimate: np.ndarray, pixel_m: float) -> tuple[float, float]:
    """Offset (east, north) in metres that moves ``estimate`` onto ``reference``, by least squares on gradients."""
    total = np.zeros(2)
    moved = estimate
    for _ in range(4):
        gy, gx = np.gradient(moved)
        inner = (slice(8, -8), slice(8, -8))
        a = np.stack([gy[inner].ravel(), gx[inner].ravel()], axis=1)
        b = (reference - moved)[inner].ravel()
        usable = np.isfinite(a).all(axis=1) & np.isfinite(b)
        step, *_ = np.linalg.lstsq(a[usable], b[usable], rcond=None)
        total -= step
        moved = move(estimate, total, order=1, mode="nearest")
    return float(total[1] * pixel_m), float(-total[0] * pixel_m)


def check(output: Path, truth_path: Path) -> dict[str, float]:
    """Compare the cube with the truth on nine windows."""
    truth = Truth.load(truth_path)
    with open_hsi(output) as product:
        bands, grid = product.bands, product.grid
    offsets, errors, peaks = [], [], []
    nir = int(bands.nearest(860.0)[0])
    with rasterio.open(output) as cube:
        for block in windows(grid.height, grid.width):
            raw = cube.read(window=Window(block.col0, block.row0, SIDE_PX, SIDE_PX)).astype(np.float32)
            estimate = np.where(raw == cube.nodata, np.nan, raw * np.float32(cube.scales[0]))
            reference = truth.reflectance(bands, grid.crop(block).block_in(truth.grid))
            valid = np.isfinite(estimate).all(axis=0)
            if valid.mean() < 0.5:
                continue
            error = (estimate - reference)[:, valid].astype(np.float64)
            errors.append((error**2).mean(axis=1))
            peaks.append(reference[:, valid].max(axis=1))
            plane = np.where(valid, estimate[nir], reference[nir])
            offsets.append(offset_m(reference[nir], plane, grid.pixel_m))
    psnr = 10 * np.log10(np.max(peaks, axis=0) ** 2 / np.mean(errors, axis=0))
    distance = np.hypot(*np.array(offsets).T)
    return {"psnr_db": float(psnr.mean()), "offset_rms_m": float(np.sqrt((distance**2).mean())),
            "offset_max_m": float(distance.max()), "windows": len(offsets)}  # fmt: skip


def random_weights(folder: Path, name: str) -> Path:
    """Write a network that nobody has trained, for the bands of the simulated product: its arithmetic is the same."""
    import torch

    from hsfuse.band_selection import select_bands
    from hsfuse.fusion.nets.header import NetworkHeader
    from hsfuse.fusion.nets.weights import save_weights
    from hsfuse.fusion.registry import METHODS

    path = folder / f"{name}-random.safetensors"
    if not path.is_file():
        with open_hsi(next((folder / "products").glob("PRS_*.he5"))) as product:
            bands = select_bands(product).kept
        torch.manual_seed(0)
        entry = METHODS.get(name).network
        if entry is None:
            raise SystemExit(f"{name} is no network.")
        free = entry.any_bands
        shape = {} if free else {"n_bands": len(bands), "n_msi": 4}
        settings = entry.completed({**entry.settings, **shape})
        header = NetworkHeader(
            name=name, architecture=entry.architecture, config=settings,
            centre_nm=() if free else tuple(map(float, bands.centre_nm)),
            fwhm_nm=() if free else tuple(map(float, bands.fwhm_nm)), ratios=() if free else (3,),
            msi_bands=() if free else ("B02", "B03", "B04", "B08"), n_msi=0 if free else 4,
            base="glp" if free or settings.get("base") == "estimate" else "", training={"note": "random weights"},
        )  # fmt: skip
        save_weights(path, entry.build(settings), header)
    return path


def going_on_is_the_same(command: list[str], whole: Path, folder: Path) -> bool:
    """Kill a run half-way, go on with it, and compare what it makes with what a run made that was left alone."""
    output = folder / "resumed" / whole.name
    output.parent.mkdir(exist_ok=True)
    again = [str(output) if part == str(whole) else part for part in command]
    rows = output.with_name(output.name + ".part") / "rows.bil"
    with rasterio.open(whole) as cube:
        size = cube.width * cube.height * cube.count * np.dtype(cube.dtypes[0]).itemsize
    with subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not (rows.is_file() and rows.stat().st_size >= KILLED_AT * size):
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    print(f"killed with {rows.stat().st_size / size:.0%} of the rows safe")
    subprocess.run([*again, "--resume"], capture_output=True, check=True)
    layers = whole.with_suffix(".confidence.tif"), output.with_suffix(".confidence.tif")
    return alike(whole, output) and (not layers[0].is_file() or alike(*layers))


def alike(first: Path, second: Path) -> bool:
    """Whether two files hold the same bytes."""
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            parts = one.read(1 << 24), other.read(1 << 24)
            if parts[0] != parts[1]:
                return False
            if not parts[0]:
                return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--cols", type=int, default=1240)
    parser.add_argument("--flags", default="", help="further flags of hsfuse run")
    parser.add_argument("--untrained", action="store_true", help="a network with random weights: for its time only")
    parser.add_argument("--resume", action="store_true", help="also kill a run half-way and go on with it")
    parser.add_argument("--quick", action="store_true", help="do not compare with the truth")
    arguments = parser.parse_args()
    prisma, sentinel2, truth = pair_of(arguments.folder / "products", arguments.rows, arguments.cols)
    output = arguments.folder / f"{arguments.method}.tif"
    command = [sys.executable, "-m", "hsfuse", "run", str(prisma), str(sentinel2), "-o", str(output)]
    command += ["--method", arguments.method, "--json", "--no-progress", *arguments.flags.split()]
    if arguments.untrained:
        command += ["--model", str(random_weights(arguments.folder, arguments.method))]
    speed = machine_speed()
    load, began = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    summary = json.loads(done.stdout)
    grid, registration = summary["grid"], summary["coregistration"]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {platform.platform()}")
    print(f"method {arguments.method}: {grid['height']} x {grid['width']} pixels, {summary['bands']['count']} bands\n")
    print("| stage | seconds | of a core, all threads |\n|---|---|---|")
    for stage, seconds in summary["seconds"].items():
        print(f"| {stage} | {seconds:.1f} | {summary['cpu_seconds'][stage]:.1f} |")
    processor = used.ru_utime + used.ru_stime
    cores = os.cpu_count() or 1
    print(f"| **whole command** | **{took:.1f}** | **{processor:.1f}** |\n")
    print(
        f"{processor / took / cores:.0%} of {cores} cores used; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    )
    print(f"before: {speed}\nafter:  {machine_speed()}")
    print(
        f"peak memory {used.ru_maxrss * 1024 / 1e9:.2f} GB (planned {summary['plan']['peak_memory_bytes'] / 1e9:.2f})"
    )
    counted = summary["statistics"]
    valid = counted["valid_pixels"] / 1e6
    print(f"{valid:.2f} Mpx valid, {counted['read_pixels'] / 1e6:.2f} Mpx given to the method, context included")
    print(f"{summary['total_seconds'] / valid:.2f} s per valid Mpx")
    plan = summary["plan"]
    print(f"from the plan on {plan['took_seconds']:.1f} s (planned {plan['estimated_seconds']:.1f})")
    print(f"co-registration {registration['verdict']}, hold-out RMSE {registration['rmse_m']} m")
    if not arguments.quick:
        print(f"windows against the truth: {check(output, truth)}")
    if arguments.resume:
        same = going_on_is_the_same(command, output, arguments.folder)
        print(f"killed and gone on with: {'the same bytes' if same else 'OTHER BYTES'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
