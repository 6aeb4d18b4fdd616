"""How the stages of a run would spread over more cores than this machine has: counted by sampling, whatever the load.

    python benchmarks/stage_scaling.py PRISMA SENTINEL2 OUTPUT.tif [--method glp] [--threads 16] [--json OUT.json]
    python benchmarks/stage_scaling.py PRISMA SENTINEL2 OUTPUT.tif --method ssrfn --card CUBE.img --json CARD.json

``hsfuse run --quality plain`` is started with as many threads as the workstation has cores. With ``--card`` it runs
beside a pretended card that takes no time and returns the pixels of a finished cube of the same pair
(``pretended_card.py``): the host's part of a run with a card, in which the cube is written and judged while the card
fuses. Every 10 ms the threads of the process, and of those that it started, which run or could run (state R of
``/proc/PID/task/*/stat``) are counted, and the processor time since the last look noted. Work that was done while k
threads could run takes a k-th of its processor time where there are k cores or more, so

    seconds on n cores = sum over samples of (processor time / min(k, n)).

Modules are compiled beforehand, as pip does when it installs a package, whatever ``PYTHONDONTWRITEBYTECODE`` says here.
Threads that wait for a lock, for the disk or for each other are not counted. Memory bandwidth, which all cores share,
and faster or slower cores are left out: the figures are what the threads allow, at this machine's speed of one core.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

from machine_speed import machine_speed

_TICK = os.sysconf("SC_CLK_TCK")
_PERIOD_S, _NICE = 0.01, -10
CORES = (1, 2, 4, 8, 16)


class OpenStages:
    """The stages that a run says it has begun and not ended, read from its log."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self.lines: list[str] = []

    def read(self, stream: object) -> None:
        """Follow the log until it ends."""
        for line in stream:  # type: ignore[attr-defined]
            self.lines.append(line)
            begun = re.search(r"(?:\bD )?([A-Za-z][\w \-]*): begins", line)
            ended = re.search(r"(?:\bD )?([A-Za-z][\w \-]*): done in", line)
            if begun:
                self._open.append(begun[1].strip())
            elif ended and ended[1].strip() in self._open:
                self._open.remove(ended[1].strip())

    def __str__(self) -> str:
        return " + ".join(sorted(set(self._open))) or "start, between stages, end"


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def threads_of(pid: int) -> tuple[int, float]:
    """Threads of a process that run or could run, and its processor time, seconds; not those of a pretended card."""
    running, of_card = 0, 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            head, _, tail = (task / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        if head.endswith("(card"):
            of_card += _busy(fields)
        else:
            running += fields[0] == "R"
    return running, _busy(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()) - of_card


def _busy(fields: list[str]) -> float:
    """Processor time of a process or thread, seconds."""
    return (int(fields[11]) + int(fields[12])) / _TICK


def sample(command: list[str], variables: dict[str, str]) -> dict[str, dict[int, float]]:
    """Run a command with some variables of its environment; return stage -> cores -> seconds."""
    found: dict[str, dict[int, float]] = defaultdict(lambda: dict.fromkeys(CORES, 0.0))
    compileall.compile_dir(Path(__file__).parents[1] / "hsfuse", quiet=2)
    stages, environment = OpenStages(), os.environ | variables
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    reader = threading.Thread(target=stages.read, args=(process.stderr,), daemon=True)
    reader.start()
    # Whoever looks seldom takes what was done since then for done by as many threads as run now.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    spent: dict[int, float] = {}
    while process.poll() is None:
        running, busy = 0, 0.0
        try:
            for pid in family(process.pid):
                with contextlib.suppress(OSError):
                    threads, now = threads_of(pid)
                    running, busy = running + threads, busy + now - spent.get(pid, 0.0)
                    spent[pid] = now
        except OSError:
            break
        row = found[str(stages)]
        for cores in CORES:
            row[cores] += busy / min(max(running, 1), cores)
        time.sleep(_PERIOD_S)
    reader.join(timeout=10.0)
    if process.wait():
        sys.exit("".join(stages.lines[-5:]))
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prisma")
    parser.add_argument("sentinel2")
    parser.add_argument("output")
    parser.add_argument("--method", default="glp")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the table there, for roofline.py --stages")
    parser.add_argument("--card", type=Path, metavar="CUBE", help="beside a pretended card that returns this cube")
    parser.add_argument("--flags", default="", help="further flags of hsfuse run")
    args = parser.parse_args()
    program = [str(Path(__file__).with_name("pretended_card.py"))] if args.card else ["-m", "hsfuse"]
    command = [
        sys.executable, *program, "run", args.prisma, args.sentinel2, "-o", args.output, "--method", args.method,
        "--quality", "plain", "--threads", str(args.threads), "--overwrite", "--verbose", "--no-progress",
        *args.flags.split(),
    ]  # fmt: skip
    print(machine_speed())
    found = sample(command, {"HSFUSE_PRETENDED_RESULT": str(args.card)} if args.card else {})
    print(machine_speed() + "\n")
    print("| stages | " + " | ".join(f"{n} core{'s' if n > 1 else ''}, s" for n in CORES) + " |")
    print("|---|" + "---|" * len(CORES))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{row[n]:.1f}" for n in CORES) + " |")
    print("| **total** | " + " | ".join(f"{sum(r[n] for r in found.values()):.1f}" for n in CORES) + " |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
