"""What somebody sees who runs hsfuse on a terminal for the first time: silences, and how good the estimates are.

Each command runs on a pseudo-terminal of 80 columns. Silence is the longest time without a byte on it. The estimate of
the whole run is what the display says at a moment (gone + left); its error counts from the moment at which a fifth of
the true time has passed.

Usage: python benchmarks/newcomer.py DEMO_FOLDER [--only glp ssrfn-lite adapt] [--json OUT]
       (DEMO_FOLDER as `hsfuse demo DEMO_FOLDER` leaves it)
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

COLUMNS = 80
FROM = 0.2
_SHOWN = re.compile(r"([\dhmins ]+?) gone, about ([\dhmins ]+?) left")
CASES = {
    "glp": ["--method", "glp"],
    "ssrfn-lite": ["--method", "ssrfn-lite"],
    "adapt": ["--method", "ssrfn-lite", "--adapt", "1"],
}


@dataclass(frozen=True)
class Seen:
    """What stood on the terminal, and when (seconds since the start)."""

    code: int
    seconds: float
    pieces: list[tuple[float, str]]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for _, text in self.pieces)

    @property
    def first_s(self) -> float:
        """When something was to be seen."""
        return self.pieces[0][0] if self.pieces else self.seconds

    @property
    def silence(self) -> tuple[float, float]:
        """(seconds, when it began) of the longest silence."""
        times = [0.0, *(moment for moment, _ in self.pieces), self.seconds]
        return max((b - a, a) for a, b in pairwise(times))

    def estimates(self) -> list[tuple[float, float]]:
        """(when, seconds of the whole run as estimated then)."""
        found = []
        for moment, text in self.pieces:
            for gone, left in _SHOWN.findall(plain(text)):
                found.append((moment, seconds_of(gone) + seconds_of(left)))
        return found

    @property
    def worst_estimate(self) -> float:
        """Largest error of the whole's estimate from a fifth on, relative to the true time."""
        late = [total for moment, total in self.estimates() if moment >= FROM * self.seconds]
        return max((abs(total / self.seconds - 1.0) for total in late), default=float("nan"))


def plain(text: str) -> str:
    """Text without the sequences that move the cursor or set colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def seconds_of(text: str) -> float:
    """Turn ``2 min 05 s`` into seconds."""
    units = {"h": 3600.0, "min": 60.0, "s": 1.0}
    return sum(float(value) * units[unit] for value, unit in re.findall(r"(\d+) (h|min|s)", text))


def watch(command: list[str]) -> Seen:
    """Run a command on a pseudo-terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "24", "TERM": "xterm-256color"}
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True)
    os.close(slave)
    pieces: list[tuple[float, str]] = []
    while True:
        ready, _, _ = select.select([master], [], [], 0.05)
        if ready:
            try:
                data = os.read(master, 1 << 16)
            except OSError:
                break
            if not data:
                break
            pieces.append((time.monotonic() - start, data.decode("utf-8", "replace")))
        elif process.poll() is not None:
            break
    os.close(master)
    return Seen(process.wait(), time.monotonic() - start, pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true", help="print the finished lines too")
    options = parser.parse_args()
    products = options.demo / "products"
    hsi, msi = next(products.glob("*.he5")), next(products.glob("*.SAFE"))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            output = Path(folder) / f"{name}.tif"
            seen = watch([sys.executable, "-m", "hsfuse", "run", str(hsi), str(msi), "-o", str(output), *CASES[name]])
            rows[name] = {
                "exit_code": seen.code, "seconds": round(seen.seconds, 1), "first_sign_s": round(seen.first_s, 2),
                "longest_silence_s": round(seen.silence[0], 2),
                "silent_from_s": round(seen.silence[1], 2), "worst_estimate": round(seen.worst_estimate, 3),
            }  # fmt: skip
            print(name, rows[name], flush=True)
            if options.show:
                print(plain(seen.text)[-4000:])
                for moment, total in seen.estimates():
                    print(f"  {moment:6.1f} s: {total:6.1f} s in all")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
