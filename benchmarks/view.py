"""How quickly `hsfuse view` opens a cube and answers a click.

The first picture is what the page asks for before anything is seen: its description and the tile that holds the whole
cube. Spectra are asked for at pixels spread over the cube that nobody has looked at before: those of the cube and of
PRISMA in one question, that of Sentinel-2, whose images may have to be decoded first, in a second one.

Usage: python benchmarks/view.py CUBE [--hsi PRISMA] [--msi SENTINEL2 ...] [--pixels 40] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil


def ask(address: str) -> tuple[float, bytes]:
    """Seconds and content of an answer."""
    start = time.perf_counter()
    with urllib.request.urlopen(address, timeout=120) as answer:
        content = answer.read()
    return time.perf_counter() - start, content


def cpu_seconds(pid: int) -> float:
    """Processor time of a process: what a busy machine does not change much."""
    return sum(psutil.Process(pid).cpu_times()[:2])


def measure(command: list[str], pixels: int) -> dict[str, Any]:
    """Start the server as a user does, and ask as the page does."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    try:
        address = process.stdout.readline().strip() if process.stdout else ""
        ready = time.perf_counter() - start
        about = json.loads(ask(f"{address}about.json")[1])
        nm = ",".join(str(value) for value in about["composites"][0]["nm"])
        ask(f"{address}tile/fused/{about['levels'] - 1}/0/0.png?nm={nm}")
        seen, computed = time.perf_counter() - start, cpu_seconds(process.pid)
        near = [ask(f"{address}tile/fused/0/{i}/{i}.png?nm={nm}")[0] for i in range(min(8, about["height"] // 256))]
        rng = np.random.default_rng(0)
        took, all_layers, cpu = [], [], []
        for _ in range(pixels):
            before = cpu_seconds(process.pid)
            row, col = int(rng.integers(about["height"])), int(rng.integers(about["width"]))
            took.append(ask(f"{address}spectrum.json?row={row}&col={col}&layers=fused,prisma")[0])
            cpu.append(cpu_seconds(process.pid) - before)
            all_layers.append(ask(f"{address}spectrum.json?row={row}&col={col}&layers=sentinel2")[0])
        layers = {}
        for layer in about["layers"][1:]:
            whole = f"{address}tile/{layer['name']}/{about['levels'] - 1}/0/0.png?nm={nm}"
            layers[layer["name"]] = round(ask(whole)[0], 2)
    finally:
        process.terminate()
        process.wait()
    return {
        "pixels": [about["height"], about["width"], len(about["bands"])], "server_ready_s": round(ready, 2),
        "first_picture_s": round(seen, 2),
        "first_picture_cpu_s": round(computed, 2), "near_tile_ms": round(1e3 * float(np.median(near)), 1),
        "spectrum_median_ms": round(1e3 * float(np.median(took)), 1),
        "spectrum_cpu_ms": round(1e3 * float(np.mean(cpu)), 1),
        "spectrum_95_ms": round(1e3 * float(np.percentile(took, 95)), 1),
        "spectrum_first_ms": round(1e3 * took[0], 1),
        "sentinel2_median_ms": round(1e3 * float(np.median(all_layers)), 1), "overview_of_layers_s": layers,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", type=Path)
    parser.add_argument("--hsi", type=Path)
    parser.add_argument("--msi", type=Path, nargs="*", default=[])
    parser.add_argument("--pixels", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-m", "hsfuse", "view", str(options.cube), "--no-browser", "--quiet"]
    command += ["--hsi", str(options.hsi)] if options.hsi else []
    for path in options.msi:
        command += ["--msi", str(path)]
    found = measure(command, options.pixels)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
