"""Everything that needs a GPU, in one command and a few minutes: checks, parity, whole scenes, training.

    python benchmarks/gpu.py --minutes 8 [--device cuda:0] [--work FOLDER]
    python benchmarks/gpu.py --minutes 2 --device cpu          # the same parts on small sizes, so that it cannot rot

Every part runs in a process of its own with a time limit of its own; ``gpu.md`` and ``gpu.json`` in the work folder are
complete after each part, so that a machine that is taken away leaves what was found. Parts:

1. installation: what ``hsfuse doctor`` sees
2. tests: ``tests/gpu`` on a card; without one a few of the same tests, CPU against CPU
3. products: a simulated pair; it is begun before the tests and made beside them
4. scenes: one for each method: stages, peak memory of host and card beside what was planned, share of the roofline
5. training: a network on the pair for the minutes that are left; its weights stay in the work folder

Products hold the swath of a whole PRISMA scene; the Sentinel-2 image ends where the swath does: a whole tile would take
longer to simulate than the other parts have.
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
SHARES = {"installation": 0.15, "tests": 0.4, "products": 0.5, "scenes": 0.8, "training": 1.0}
"""Share of the minutes by which a part has to be done at the latest."""
METHODS = ("glp", "ssrfn-lite", "ssrfn", "ssrfn-paper")
CPU_METHODS = ("glp", "ssrfn-lite")
FULL_PX, SMALL_PX = (1200, 1240), (100, 100)
STAGES_SHOWN = 4
_OVERHEAD_S = 20.0
"""Of a training beside its steps and the reading: start, validations, writing."""


@dataclass
class Record:
    """What was found so far; written after every part."""

    folder: Path
    device: str
    minutes: float
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    simulation: subprocess.Popen[str] | None = None
    card: str = ""
    host_seconds: float = 0.0
    """What the stages before the fusion took in the last scene."""

    @property
    def on_card(self) -> bool:
        """Whether a card is tested."""
        return self.device.startswith("cuda")

    def write(self) -> None:
        """Write what is known into ``gpu.json`` and ``gpu.md``."""
        facts = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}", "device": self.device, "card": self.card, "minutes": self.minutes,
            "machine": platform.platform(), "cores": len(os.sched_getaffinity(0)), "parts": self.parts,
        }  # fmt: skip
        (self.folder / "gpu.json").write_text(json.dumps(facts, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.table() + "\n")

    def table(self) -> str:
        """All parts, and the scenes timed so far, as Markdown."""
        rows = ["| part | state | seconds | found |", "|---|---|---|---|"]
        for name in PARTS:
            part = self.parts.get(name, {"state": "not begun", "seconds": 0.0, "found": ""})
            rows.append(f"| {name} | {part['state']} | {part['seconds']:.0f} | {part['found']} |")
        scenes = self.parts.get("scenes", {}).get("rows", [])
        if scenes:
            names = list(scenes[0])
            rows += ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
            rows += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in scenes]
        return "\n".join(rows)


def hsfuse(*arguments: str, seconds: float) -> dict[str, Any]:
    """Run a command and return its JSON line.

    Raises
    ------
    RuntimeError
        It failed; says why.
    subprocess.TimeoutExpired
        It took longer.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hsfuse", *arguments, "--json"],
        capture_output=True, text=True, check=False, timeout=max(seconds, 1.0), cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise RuntimeError(said[-1] if said else f"exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def installation(record: Record, seconds: float) -> str:
    """See what is there, and begin to simulate the pair."""
    begin_products(record)
    facts = hsfuse("doctor", seconds=seconds)
    record.parts["installation"]["facts"] = facts
    torch, problems = facts["torch"], "; ".join(facts["problems"]) or "no problem"
    number = int(record.device.partition(":")[2] or 0)
    record.card = torch["gpus"][number]["name"] if record.on_card else ""
    return f"PyTorch {torch['version']}, CUDA {torch['cuda']}, {record.card or 'no GPU'}; {problems}"


def tests(record: Record, seconds: float) -> str:
    """Compare the card with the CPU; without a card, a few of the same tests."""
    chosen = ["tests/gpu"] if record.on_card else ["tests/gpu", "-m", "smoke"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen], capture_output=True, text=True, check=False,
        timeout=max(seconds, 1.0), cwd=ROOT, env={**os.environ, "HSFUSE_TEST_DEVICE": record.device},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    record.parts["tests"]["failures"] = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    last = lines[-1] if lines else done.stderr.strip()[-200:]
    if done.returncode:
        raise RuntimeError(last)
    return last


def begin_products(record: Record) -> None:
    """Begin to simulate the pair in a process of its own, unless an earlier call left it."""
    folder = record.folder / "products"
    if (folder / "truth.npz").is_file():
        return
    rows, cols = FULL_PX if record.on_card else SMALL_PX
    # The small pair has no room for clouds: the strip that validates a training would be under one.
    clouds = [] if record.on_card else ["--clouds", "0"]
    record.simulation = subprocess.Popen(
        [sys.executable, "-m", "hsfuse", "simulate", str(folder), "--rows", str(rows), "--cols", str(cols), "--quiet",
         *clouds],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def products(record: Record, seconds: float) -> str:
    """Wait for the pair."""
    if record.simulation is not None:
        _, said = record.simulation.communicate(timeout=max(seconds, 1.0))
        if record.simulation.returncode:
            raise RuntimeError(said.strip()[-200:])
    prisma, _ = pair(record)
    return f"{Path(prisma).stat().st_size / 1e9:.2f} GB"


def pair(record: Record) -> tuple[str, str]:
    """Return the products.

    Raises
    ------
    subprocess.TimeoutExpired
        There was no time to make them.
    RuntimeError
        They could not be made.
    """
    folder = record.folder / "products"
    if not (folder / "truth.npz").is_file():
        if record.parts["products"]["state"] == "out of time":
            raise subprocess.TimeoutExpired("simulate", 0.0)
        raise RuntimeError("There are no products.")
    return str(next(folder.glob("PRS_*.he5"))), str(next(folder.glob("S2*.SAFE")))


def weights_for(record: Record, method: str) -> list[str]:
    """Flags for networks that nobody has trained: random weights, which take the same time."""
    if (ROOT / "models" / method).is_dir() or method == "glp":
        return []
    from full_scene import random_weights

    return ["--model", str(random_weights(record.folder, method))]


def scenes(record: Record, seconds: float) -> str:
    """Time a scene for each method while there is time; more demanding methods last."""
    end = time.monotonic() + seconds
    prisma, sentinel2 = pair(record)
    rows: list[dict[str, Any]] = record.parts["scenes"].setdefault("rows", [])
    methods = METHODS if record.on_card else CPU_METHODS
    missed, late = [], False
    for method in methods:
        output = record.folder / f"{method}.tif"
        try:
            found = hsfuse(
                "run", prisma, sentinel2, "-o", str(output), "--method", method, "--device", record.device,
                "--overwrite", *weights_for(record, method), seconds=end - time.monotonic(),
            )  # fmt: skip
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            late = late or isinstance(error, subprocess.TimeoutExpired)
            missed.append(f"{method}: {'no time' if isinstance(error, subprocess.TimeoutExpired) else error}")
            continue
        output.unlink()
        rows.append(scene_row(record, method, found))
        record.host_seconds = found["seconds"].get("open", 0.0) + found["seconds"].get("co-register", 0.0)
        record.write()
    if not rows:
        raise subprocess.TimeoutExpired("run", seconds) if late else RuntimeError("; ".join(missed))
    return "; ".join([f"{len(rows)} of {len(methods)} methods", *missed])


def scene_row(record: Record, method: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a run said, as a row of the table."""
    plan, spent = found["plan"], found["seconds"]
    fuse, pixels = spent.get("fuse", 0.0), plan["computed_pixels"]
    longest = sorted(spent, key=lambda name: -spent[name])[:STAGES_SHOWN]
    share = None
    if record.on_card and fuse:
        from roofline import roofline_share

        share = roofline_share(record.card, method, fuse, pixels)
    return {
        "method": method, "seconds": f"{found['total_seconds']:.1f}", "fuse": f"{fuse:.1f}",
        "longest stages": ", ".join(f"{name} {spent[name]:.1f}" for name in longest),
        "Mpx valid": f"{found['statistics']['valid_pixels'] / 1e6:.2f}", "Mpx computed": f"{pixels / 1e6:.2f}",
        "host GB (planned)": f"{found['peak_memory_bytes'] / 1e9:.2f} ({plan['peak_memory_bytes'] / 1e9:.2f})",
        "card GB (planned)":
            f"{(found['peak_vram_bytes'] or 0) / 1e9:.2f} ({(plan['peak_vram_bytes'] or 0) / 1e9:.2f})",
        "share of the roofline": "" if share is None else f"{share:.0%}",
    }  # fmt: skip


def training(record: Record, seconds: float) -> str:
    """Train for what is left of the time."""
    prisma, sentinel2 = pair(record)
    # The experts that a gate weighs learn from more ground than the small pair has.
    method = "ssrfn" if record.on_card else "ssrnet-lite"
    weights = record.folder / f"{method}.safetensors"
    minutes = max(seconds - 1.5 * record.host_seconds - _OVERHEAD_S, 2.0) / 60.0
    small = [] if record.on_card else ["--steps", "2", "--validation-windows", "1", "--patch", "24", "--window", "48",
                                       "--batch", "2"]  # fmt: skip
    found = hsfuse(
        "train-reduced", prisma, sentinel2, "-o", str(weights), "--method", method, "--minutes", f"{minutes:.2f}",
        "--device", record.device, "--overwrite", *small, seconds=seconds,
    )  # fmt: skip
    record.parts["training"]["validation"] = found["validation"]
    speed, gain = found["megapixels_per_second"], found["validation"]["gain_db"]
    return f"{method}: {found['steps']} steps, {speed:.3g} Mpx/s, {gain:+.2f} dB over its base estimate, {weights.name}"


PARTS: dict[str, Callable[[Record, float], str]] = {
    "installation": installation, "tests": tests, "products": products, "scenes": scenes, "training": training,
}  # fmt: skip


def run_parts(record: Record) -> None:
    """Run all parts, each until its share of the time is used up; the record is written before and after each."""
    start, whole = time.monotonic(), 60.0 * record.minutes
    for name, part in PARTS.items():
        begun = time.monotonic()
        record.parts[name] = {"state": "running", "seconds": 0.0, "found": ""}
        record.write()
        try:
            state, found = "done", part(record, SHARES[name] * whole - (begun - start))
        except subprocess.TimeoutExpired:
            state, found = "out of time", ""
        except (RuntimeError, OSError, LookupError, ValueError, ImportError) as error:
            state, found = "failed", f"{type(error).__name__}: {error}"
        record.parts[name] |= {"state": state, "seconds": time.monotonic() - begun, "found": found}
        record.write()
        print(f"{name}: {state} {found}", file=sys.stderr, flush=True)
    if record.simulation is not None and record.simulation.poll() is None:
        record.simulation.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--work", type=Path, default=Path("gpu-benchmark"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    record = Record(args.work.resolve(), args.device, args.minutes)
    run_parts(record)
    print(record.table())
    states = [part["state"] for part in record.parts.values()]
    # Without any part done nothing was shown: that is no success.
    if "failed" in states or "done" not in states:
        sys.exit(1)


if __name__ == "__main__":
    main()
