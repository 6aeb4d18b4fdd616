"""Everything that needs a GPU, in one command and a few minutes: checks, parity, whole scenes, training.

    python benchmarks/gpu.py --minutes 8 [--device cuda:0] [--work FOLDER]
    python benchmarks/gpu.py --minutes 2 --device cpu          # the same parts on small sizes, so that it cannot rot

Every part runs in a process of its own with a time limit of its own; ``gpu.md`` and ``gpu.json`` in the work folder are
complete after each part, so that a machine that is taken away leaves what was found. Parts:

1. installation: what ``hsfuse doctor`` sees
2. tests: ``tests/gpu`` on a card, the kernels under Triton's interpreter without one
3. scenes: one scene for each method, time of each stage, peak memory of host and card, share of the roofline
4. training: a network on simulated scenes for the minutes that are left; its weights stay in the work folder
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"installation": 0.1, "tests": 0.35, "scenes": 0.7, "training": 1.0}
"""Share of the minutes by which a part has to be done at the latest."""


@dataclass
class Record:
    """What was found so far; written after every part."""

    folder: Path
    device: str
    minutes: float
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self) -> None:
        """Write what is known into ``gpu.json`` and ``gpu.md``."""
        facts = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}", "device": self.device, "minutes": self.minutes,
            "machine": platform.platform(), "cores": len(os.sched_getaffinity(0)), "parts": self.parts,
        }  # fmt: skip
        (self.folder / "gpu.json").write_text(json.dumps(facts, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.table() + "\n")

    def table(self) -> str:
        """All parts, and the scenes timed so far, as Markdown."""
        rows = ["| part | state | seconds | found |", "|---|---|---|---|"]
        for name in SHARES:
            part = self.parts.get(name, {"state": "not begun", "seconds": 0.0, "found": ""})
            rows.append(f"| {name} | {part['state']} | {part['seconds']:.0f} | {part['found']} |")
        scenes = self.parts.get("scenes", {}).get("rows", [])
        if scenes:
            rows += ["", "| method | seconds | of these fuse | Mpx valid | host GB | card GB | card planned GB |"]
            rows += ["|---|---|---|---|---|---|---|"]
            rows += ["| " + " | ".join(map(str, row)) + " |" for row in scenes]
        return "\n".join(rows)


def hsfuse(*arguments: str, seconds: float) -> dict[str, Any]:
    """Run a command and return its JSON line."""
    done = subprocess.run(
        [sys.executable, "-m", "hsfuse", *arguments, "--json"],
        capture_output=True, text=True, check=False, timeout=max(seconds, 1.0), cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        raise RuntimeError(said[-1] if said else f"exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def installation(record: Record, seconds: float) -> str:
    facts = hsfuse("doctor", seconds=seconds)
    record.parts["installation"]["facts"] = facts
    problems = "; ".join(facts["problems"]) or "no problem"
    torch = facts["torch"]
    cards = torch["gpus"] or "no GPU"
    return f"PyTorch {torch['version']}, CUDA {torch['cuda']}, {cards}; Mamba-2: {facts['mamba2']}; {problems}"


def tests(record: Record, seconds: float) -> str:
    on_card = record.device.startswith("cuda")
    chosen = ["tests/gpu"] if on_card else ["tests/fusion/test_gpu_kernels.py", "-k", "convolution or normalisation"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *chosen], capture_output=True, text=True, check=False,
        timeout=max(seconds, 1.0), cwd=ROOT,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    if done.returncode:
        raise RuntimeError(last)
    return last


def _pair(record: Record, seconds: float) -> tuple[str, str]:
    folder = record.folder / "products"
    rows, cols = ("1200", "1240") if record.device.startswith("cuda") else ("120", "120")
    if not folder.is_dir():
        hsfuse("simulate", str(folder), "--rows", rows, "--cols", cols, seconds=seconds)
    return str(next(folder.glob("PRS_*.he5"))), str(next(folder.glob("S2*.SAFE")))


def scenes(record: Record, seconds: float) -> str:
    """Time a scene for each method while there is time; more demanding methods last."""
    end = time.monotonic() + seconds
    prisma, sentinel2 = _pair(record, seconds)
    rows = record.parts["scenes"].setdefault("rows", [])
    left_out = []
    for method in ("glp", "ssrfn-lite", "ssrfn"):
        if time.monotonic() > end - 5:
            left_out.append(method)
            continue
        output = record.folder / f"{method}.tif"
        found = hsfuse(
            "run", prisma, sentinel2, "-o", str(output), "--method", method, "--device", record.device, "--overwrite",
            seconds=end - time.monotonic(),
        )  # fmt: skip
        plan = found["plan"]
        card = found["peak_vram_bytes"] or 0
        rows.append([
            method, f"{found['total_seconds']:.1f}", f"{found['seconds'].get('fuse', 0.0):.1f}",
            f"{found['statistics']['valid_pixels'] / 1e6:.2f}", f"{found['peak_memory_bytes'] / 1e9:.2f}",
            f"{card / 1e9:.2f}", f"{(plan['peak_vram_bytes'] or 0) / 1e9:.2f}",
        ])  # fmt: skip
        record.write()
    return f"{len(rows)} methods" + (f"; no time for {', '.join(left_out)}" if left_out else "")


def training(record: Record, seconds: float) -> str:
    prisma, sentinel2 = _pair(record, seconds)
    method = "ssrfn" if record.device.startswith("cuda") else "ssrfn-lite"
    weights = record.folder / f"{method}.safetensors"
    minutes = max(seconds - max(25.0, 0.5 * seconds), 5.0) / 60.0
    found = hsfuse(
        "train-reduced", prisma, sentinel2, "-o", str(weights), "--method", method, "--minutes", f"{minutes:.2f}",
        "--device", record.device, "--overwrite", seconds=seconds,
    )  # fmt: skip
    return f"{method}: {found.get('steps', '?')} steps in {minutes:.1f} min, {weights.name}"


PARTS: dict[str, Callable[[Record, float], str]] = {
    "installation": installation, "tests": tests, "scenes": scenes, "training": training,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--work", type=Path, default=Path("gpu-benchmark"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    record = Record(args.work.resolve(), args.device, args.minutes)
    start, whole = time.monotonic(), 60.0 * args.minutes
    for name, part in PARTS.items():
        begun = time.monotonic()
        record.parts[name] = {"state": "running", "seconds": 0.0, "found": ""}
        record.write()
        try:
            state, found = "done", part(record, SHARES[name] * whole - (begun - start))
        except subprocess.TimeoutExpired:
            state, found = "out of time", ""
        except (RuntimeError, OSError, KeyError, StopIteration) as error:
            state, found = "failed", f"{type(error).__name__}: {error}"
        record.parts[name] |= {"state": state, "seconds": time.monotonic() - begun, "found": found}
        record.write()
        print(f"{name}: {state} {found}", file=sys.stderr, flush=True)
    print(record.table())
    if any(part["state"] == "failed" for part in record.parts.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
