"""Speed and memory: kernels against the machine's own peak, networks per megapixel, whole runs by height.

    python benchmarks/speed.py kernels networks
    python benchmarks/speed.py runs --scene WORK_FOLDER
    python benchmarks/speed.py scaling --scene WORK_FOLDER --method glp

``kernels`` and ``networks`` need nothing but the package. ``runs`` runs ``hsfuse run`` with methods, precisions and
paths side by side, on the pair in the work folder (one of 300 x 300 HSI pixels is simulated where there is none).
``scaling`` takes the pair that ``full_scene.py`` has simulated, makes PRISMA products of half, the same and twice its
height out of it (rows repeated, so without co-registration) and runs ``hsfuse run`` on each. Tables are Markdown.
Seconds are the best of a few repetitions; ``cpu`` seconds are those of one core and hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from full_scene import random_weights

from hsfuse.allocator import keep_freed_memory
from hsfuse.degrade import Psf, inject, lowpass_decimate, smooth, upsample
from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.description import backbone_flop
from hsfuse.fusion.methods.ssrfn.network import MOST_COMPONENTS, Gate
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.fusion.nets.native import native_status
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.fusion.registry import METHODS, is_network
from hsfuse.native import OVERRIDE, image
from hsfuse.processor import usable_cores
from hsfuse.simulate.products import simulate_pair
from hsfuse.workflows.doctor import diagnose
from hsfuse.writers.encoding import SampleEncoding

CORES = usable_cores()
MPX = 1e6


def best(function: Callable[[], object], *, repeat: int = 5) -> float:
    """Least processor time of one call, seconds of one core."""
    function()
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


@contextmanager
def path(native: bool) -> Iterator[None]:
    """Compiled kernels, or the plain twins."""
    before = os.environ.get(OVERRIDE)
    os.environ[OVERRIDE] = "" if native else "off"
    try:
        yield
    finally:
        os.environ.pop(OVERRIDE) if before is None else os.environ.update({OVERRIDE: before})


def peaks() -> dict[torch.dtype, float]:
    """Matrix product of one core, flop/s: the peak that everything else is measured against."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
        found[dtype] = 2 * 1024**3 / best(lambda a=a, b=b: a @ b)
    return found


def machine() -> None:
    """Print what this machine is and can do."""
    facts = diagnose()
    x = torch.rand(16 << 20)
    y = torch.empty_like(x)
    copy = 2 * x.numel() * 4 / best(lambda: y.copy_(x))
    peak = peaks()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {CORES} cores, {facts['platform']},")
    print(f"torch {torch.__version__} ({facts['torch']['cpu_capability']}), load {os.getloadavg()[0]:.1f}")
    print(f"image operations {image.KERNELS.status().split(',')[0]}); Mamba-2 {native_status().split(',')[0]})")
    print(
        f"one core: matrix product {peak[torch.float32] / 1e9:.0f} GFLOP/s fp32, "
        f"{peak[torch.bfloat16] / 1e9:.0f} bf16; copy {copy / 1e9:.1f} GB/s read and written\n"
    )


def cpu_name() -> str:
    """Model of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def kernels() -> None:
    """Image operations and the Mamba-2 block, compiled and plain, on one core."""
    peak = peaks()
    coarse, fine = torch.rand(1, 32, 76, 204), torch.rand(1, 100, 228, 612)
    window = slice(6, 70), slice(6, 198)
    terms, detail = [torch.rand_like(coarse) for _ in range(4)], torch.rand(1, 4, 192, 576)
    encoding, valid = SampleEncoding.of("int16"), np.ones((228, 612), bool)
    cube, stored = fine[0].numpy(), np.empty((228, 100, 612), np.int16).transpose(1, 0, 2)
    operations: dict[str, tuple[Callable[[], object], int]] = {
        "interpolate x3": (lambda: upsample(coarse, 3), coarse.numel() * 9),
        "inject 4 terms x3": (lambda: inject(coarse, terms, detail, 3, window), 32 * 192 * 576),
        "smooth 5 x 5": (lambda: smooth(coarse, 5), coarse.numel()),
        "blur and decimate /3": (lambda: lowpass_decimate(fine, 3, Psf(1.2)), fine.numel()),
        "mask, clip, encode int16": (
            lambda: encoding.encode_into(cube, valid, stored, (-0.05, 1.5)), fine.numel(),
        ),
    }  # fmt: skip
    print("| operation | compiled, M samples/s | plain | ratio |\n|---|---|---|---|")
    for name, (function, samples) in operations.items():
        rates = []
        for native in (True, False):
            with path(native):
                rates.append(samples / best(function) / 1e6)
        print(f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[0] / rates[1]:.1f} |")
    print("\n| Mamba-2 block, lines of a 192 x 192 image | compiled, M tokens/s | GFLOP/s (of peak) | plain | ratio |")
    print("|---|---|---|---|---|")
    for width, state in ((32, 16), (64, 32), (128, 32)):
        for dtype in (torch.float32, torch.bfloat16):
            mixer = SequenceMixer(width, scan="lines", d_state=state, headdim=32).to(dtype).eval()
            x = torch.randn(1, width, 192, 192).to(dtype).contiguous(memory_format=torch.channels_last)
            rates = []
            with torch.inference_mode():
                for native in (True, False):
                    with path(native):
                        rates.append(192 * 192 / best(lambda m=mixer, x=x: m(x), repeat=3))
            work = mamba_flop(width, state) * rates[0]
            print(
                f"| width {width}, state {state}, {str(dtype)[6:]} | {rates[0] / 1e6:.2f} | {work / 1e9:.0f} "
                f"({100 * work / peak[dtype]:.0f} %) | {rates[1] / 1e6:.2f} | {rates[0] / rates[1]:.1f} |"
            )
    print()


def mamba_flop(width: int, state: int) -> float:
    """Operations of a block per token: projections, convolution, recurrence."""
    inner = 2 * width
    return (
        2 * (width * (2 * inner + 2 * state + inner // 32) + inner * width)
        + 8 * (inner + 2 * state)
        + 6 * (inner * state)
    )


def networks(names: tuple[str, ...] = ("ssrfn-lite", "ssrfn")) -> None:
    """Gates on one tile for each core, all at once, one thread each; experts' outputs are given, random ones."""
    side = 48
    pixels = (3 * side) ** 2
    peak = peaks()
    print("| gate | path | s per Mpx of a core | s per Mpx, all cores | backbone, GFLOP/s of a core (of peak) |")
    print("|---|---|---|---|---|")
    for name in names:
        for native in (True, False):
            network = Gate(GateConfig.from_dict(dict(METHODS.get(name).network.settings))).eval()
            state = torch.randn(1, MOST_COMPONENTS, 3 * side, 3 * side)
            outputs = torch.randn(1, len(EXPERTS), *state.shape[1:])
            strength = torch.linspace(3.0, 0.5, MOST_COMPONENTS)[None]

            def run(_: int = 0, network=network, given=(state, outputs, strength)) -> None:  # type: ignore[no-untyped-def]
                torch.set_num_threads(1)
                with torch.inference_mode():
                    network(*given, 3)

            with path(native):
                one = best(run, repeat=2) / pixels * MPX
                with ThreadPoolExecutor(CORES) as pool:
                    list(pool.map(run, range(CORES)))
                    start = time.perf_counter()
                    list(pool.map(run, range(2 * CORES)))
                    every = (time.perf_counter() - start) / (2 * CORES * pixels) * MPX
            blocks = network.blocks
            again = 1.0 if blocks is None else (blocks.given_px / blocks.side) ** 2
            rate = again * backbone_flop(network.config, 3) * MPX / one
            print(
                f"| {name} | {'compiled' if native else 'plain'} | {one:.1f} | {every:.1f} | "
                f"{rate / 1e9:.0f} ({100 * rate / peak[torch.float32]:.0f} %) |",
                flush=True,
            )
    print()


def resized(product: Path, rows: int, target: Path) -> Path:
    """Write a PRISMA product of another height: rows of the first one, forwards and backwards in turn."""
    if target.is_file():
        return target
    with h5py.File(product) as source, h5py.File(target, "w") as out:
        for key, value in source.attrs.items():
            out.attrs[key] = value
        top = float(source.attrs["Product_ULcorner_northing"])
        for corner in ("LL", "LR"):
            out.attrs[f"Product_{corner}corner_northing"] = top - 30.0 * (rows - 1)
        group = "HDFEOS/SWATHS/PRS_L2D_HCO"
        height = source[f"{group}/Data Fields/VNIR_Cube"].shape[0]
        for name in ("Data Fields", "Geometric Fields"):
            for key, item in source[f"{group}/{name}"].items():
                made = out.create_dataset(f"{group}/{name}/{key}", (rows, *item.shape[1:]), item.dtype)
                for row in range(0, rows, 100):
                    at = np.arange(row, min(row + 100, rows))
                    turn = at // height % 2
                    at = np.where(turn == 0, at % height, height - 1 - at % height)
                    part = item[int(at.min()) : int(at.max()) + 1]
                    made[row : row + at.size] = part[at - at.min()]
    return target


def run(prisma: Path, sentinel2: Path, output: Path, flags: list[str], *, native: bool = True) -> dict[str, Any]:
    """Run ``hsfuse run`` in a process of its own and return its summary."""
    command = [sys.executable, "-m", "hsfuse", "run", str(prisma), str(sentinel2), "-o", str(output)]
    command += ["--overwrite", "--json", "--no-progress", "-q", *flags]
    with path(native):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    output.unlink()
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def pair_in(scene: Path) -> tuple[Path, Path]:
    """Products of a work folder; a small pair is simulated where there is none."""
    products = scene / "products"
    if not any(products.glob("PRS_*.he5")):
        simulate_pair(products, size_px=(300, 300), seed=0, s2_bands="10m", cloud_fraction=0.03)
    return next(products.glob("PRS_*.he5")), next(products.glob("S2*.SAFE"))


def runs(scene: Path, methods: list[str], model: Path | None, flags: list[str]) -> None:
    """Whole runs: methods, precisions and paths side by side."""
    prisma, sentinel2 = pair_in(scene)
    print("| method | path | type | seconds | of them fusing | cpu s fusing | s per valid Mpx | cpu s fusing per Mpx | "
          "peak GB | planned GB | stages |\n|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for method in methods:
        kinds = ("fp32", "bf16") if is_network(method) else ("fp32",)
        for native, kind in ((n, k) for n in (True, False) for k in kinds):
            options = ["--method", method, *flags]
            if is_network(method):
                weights = model if model is not None and method in model.name else None
                shipped = find_model(method).weights
                weights = weights or shipped or random_weights(scene, method)
                options += ["--precision", kind, "--model", str(weights)]
            summary = run(prisma, sentinel2, scene / "speed.tif", options, native=native)
            grid, seconds = summary["grid"], summary["seconds"]
            pixels, valid = grid["height"] * grid["width"] / MPX, summary["statistics"]["valid_pixels"] / MPX
            stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
            fusing = summary["cpu_seconds"]["fuse"]
            print(
                f"| {method} | {'compiled' if native else 'plain'} | {kind} | {summary['total_seconds']:.1f} | "
                f"{seconds['fuse']:.1f} | {fusing:.1f} | {summary['total_seconds'] / valid:.1f} | "
                f"{fusing / pixels:.1f} | {summary['peak_memory_bytes'] / 1e9:.2f} | "
                f"{summary['plan']['peak_memory_bytes'] / 1e9:.2f} | {stages} |",
                flush=True,
            )
    print()


def scaling(scene: Path, method: str, flags: list[str]) -> None:
    """Whole runs at half, full and double height: memory flat, time linear."""
    prisma, sentinel2 = pair_in(scene)
    with h5py.File(prisma) as file:
        height = int(file["HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"].shape[0])
    print("| rows at 10 m | Mpx | seconds | of them fusing | cpu seconds | s per Mpx | peak memory GB | planned GB |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in (height // 2, height, 2 * height):
        product = resized(prisma, rows, scene / f"rows{rows}.he5")
        options = ["--method", method, "--coregister", "off", "--psf-fwhm", "1.2", *flags]
        summary = run(product, sentinel2, scene / "scaling.tif", options)
        grid = summary["grid"]
        pixels = grid["height"] * grid["width"] / MPX
        busy = sum(summary["cpu_seconds"].values())
        print(
            f"| {grid['height']} | {pixels:.1f} | {summary['total_seconds']:.1f} | {summary['seconds']['fuse']:.1f} | "
            f"{busy:.1f} | {summary['total_seconds'] / pixels:.2f} | {summary['peak_memory_bytes'] / 1e9:.3f} | "
            f"{summary['plan']['peak_memory_bytes'] / 1e9:.3f} |",
            flush=True,
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["kernels", "networks", "runs", "scaling"])
    parser.add_argument("--scene", type=Path, help="work folder, such as that of full_scene.py: for runs and scaling")
    parser.add_argument("--method", default="glp", help="for scaling")
    parser.add_argument("--methods", default="glp,ssrfn-lite", help="for runs")
    parser.add_argument("--model", type=Path, help="weights of the network whose name is part of the file's, for runs")
    parser.add_argument("--flags", default="", help="further flags of hsfuse run, for runs and scaling")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    machine()
    if "kernels" in arguments.what:
        kernels()
    if "networks" in arguments.what:
        networks()
    if arguments.scene is None and {"runs", "scaling"} & set(arguments.what):
        parser.error("runs and scaling need --scene")
    if "runs" in arguments.what:
        runs(arguments.scene, arguments.methods.split(","), arguments.model, arguments.flags.split())
    if "scaling" in arguments.what:
        scaling(arguments.scene, arguments.method, arguments.flags.split())


if __name__ == "__main__":
    main()
