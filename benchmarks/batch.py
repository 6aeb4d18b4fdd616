"""Batches of twelve small scenes: time against one run after the other, memory of all processes, random kills.

Usage: python benchmarks/batch.py WORK_FOLDER [--scenes 12] [--rounds 3] [--kills 20] [--max-memory 3GB] [--no-report]
    [--flags '...']

Every round runs the scenes one after the other with `hsfuse run` and then with `hsfuse batch`, so that a slow
phase of the machine meets both. Memory is the sum over all processes of a batch, sampled: resident (shared pages
counted once for each process) and proportional (each page counted once). Each kill ends a batch with SIGKILL at a
random moment; the cubes after a second call are compared with those of the single runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from hsfuse.simulate.products import simulate_pair

SETTINGS = ("--method", "glp", "--bands", "24", "--no-progress", "--quiet")
_SAMPLE_S = 0.05


def simulate(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Three pairs of different dates, each hyperspectral product under four names; (HSI, Sentinel-2) of each scene."""
    hsi, s2 = folder / "prisma", folder / "sentinel2"
    if not hsi.is_dir():
        hsi.mkdir(parents=True)
        s2.mkdir()
        for number in range(3):
            day = datetime(2024, 6, 1, 10, 30, 12, tzinfo=UTC) + timedelta(days=40 * number)
            pair = simulate_pair(
                folder / f"pair{number}", size_px=(96, 96), seed=5 + number, shift_m=(60.0, -40.0), s2_bands="10m",
                pan=False, start=day, s2_start=day + timedelta(days=2),
            )  # fmt: skip
            shutil.move(pair.sentinel2, s2)
            for copy in range(count // 3):
                shutil.copy(pair.prisma, hsi / f"scene_{number * (count // 3) + copy:02d}.he5")
    products = sorted(s2.iterdir())
    return [(path, products[i * 3 // count]) for i, path in enumerate(sorted(hsi.iterdir()))]


def hashes(folder: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tif"))}


def one_after_the_other(scenes: Sequence[tuple[Path, Path]], out: Path, flags: Sequence[str]) -> float:
    out.mkdir(parents=True)
    begun = time.monotonic()
    for hsi, s2 in scenes:
        call = [sys.executable, "-m", "hsfuse", "run", str(hsi), str(s2), "-o", str(out / f"{hsi.stem}.tif")]
        subprocess.run([*call, *SETTINGS, *flags], check=True)
    return time.monotonic() - begun


def batch_call(folder: Path, out: Path, flags: Sequence[str]) -> list[str]:
    call = [sys.executable, "-m", "hsfuse", "batch", str(folder / "prisma"), "--s2", str(folder / "sentinel2")]
    return [*call, "-o", str(out), *SETTINGS, *flags]


class MemorySampler:
    """Peak memory of a process and all that descend from it."""

    def __init__(self, pid: int) -> None:
        self._root, self._ended = psutil.Process(pid), threading.Event()
        self.resident, self.proportional = 0, 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            resident = proportional = 0
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    facts = process.memory_full_info()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                resident += facts.rss
                proportional += facts.pss
            self.resident, self.proportional = max(self.resident, resident), max(self.proportional, proportional)

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join()


def timed_batch(folder: Path, out: Path, flags: Sequence[str]) -> tuple[float, MemorySampler]:
    begun = time.monotonic()
    process = subprocess.Popen(batch_call(folder, out, flags))
    sampler = MemorySampler(process.pid)
    code = process.wait()
    seconds = time.monotonic() - begun
    sampler.end()
    if code:
        raise SystemExit(f"the batch ended with {code}")
    return seconds, sampler


def second_call(folder: Path, out: Path, flags: Sequence[str]) -> tuple[float, float]:
    """Seconds, and seconds of the processor, of a call that has nothing to do."""
    begun, busy = time.monotonic(), os.times().children_user + os.times().children_system
    subprocess.run(batch_call(folder, out, flags), check=True)
    return time.monotonic() - begun, os.times().children_user + os.times().children_system - busy


def killed_batch(
    folder: Path, out: Path, flags: Sequence[str], within_s: float, chance: random.Random
) -> tuple[float, str]:
    """Kill a batch somewhere and call it again; return the moment, and what the first call had done."""
    process = subprocess.Popen(batch_call(folder, out, flags), stderr=subprocess.DEVNULL)
    moment = chance.uniform(0.0, within_s)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = f"{len(hashes(out)) if out.exists() else 0} cubes"
    subprocess.run(batch_call(folder, out, flags), check=True)
    return moment, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=12, help="a multiple of three")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--max-memory", default="3GB")
    parser.add_argument("--no-report", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", default="", help="further settings of every run, such as '--coregister off'")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    scenes = simulate(folder, given.scenes)
    flags = [*(["--no-report"] if given.no_report else []), *shlex.split(given.flags)]
    limited = [*flags, "--max-memory", given.max_memory]
    work = folder / "out"
    shutil.rmtree(work, ignore_errors=True)

    reference: dict[str, str] = {}
    ratios = []
    within = 0.0
    for number in range(max(given.rounds, 1)):
        serial = one_after_the_other(scenes, work / f"single{number}", flags)
        reference = hashes(work / f"single{number}")
        together, memory = timed_batch(folder, work / f"batch{number}", limited)
        again, busy = second_call(folder, work / f"batch{number}", limited)
        ratios.append(together / serial)
        within = max(within, together)
        same = hashes(work / f"batch{number}") == reference
        facts = {
            "round": number, "one after the other s": round(serial, 1), "batch s": round(together, 1),
            "ratio": round(ratios[-1], 3), "second call s": round(again, 2), "second call cpu s": round(busy, 2),
            "resident GB": round(memory.resident / 1e9, 3), "proportional GB": round(memory.proportional / 1e9, 3),
            "limit": given.max_memory, "same bytes": same, "load": [round(v, 1) for v in os.getloadavg()],
        }  # fmt: skip
        print(json.dumps(facts), flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}", flush=True)

    chance = random.Random(given.seed)
    good = 0
    for number in range(given.kills):
        out = work / f"kill{number}"
        moment, done = killed_batch(folder, out, limited, within, chance)
        same, left = hashes(out) == reference, list(out.glob("*.part"))
        good += same and not left
        print(json.dumps({"kill": number, "after s": round(moment, 2), "then": done, "same bytes": same}), flush=True)
        shutil.rmtree(out)
    if given.kills:
        print(f"{good} of {given.kills} kills ended in the same bytes", flush=True)


if __name__ == "__main__":
    main()
