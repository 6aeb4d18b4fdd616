"""Damaged inputs, kills and limits: what becomes of a run, case by case, with a table at the end.

    python benchmarks/fuzz.py OUT.jsonl [--mutations 1500] [--only mutations|kills|limits] [--jobs 1]

Every case has a name, and everything random in it comes from that name, so the same case is always the same. Cases
whose outcome stands in OUT.jsonl already are passed over: run it again to go on; ``--table`` prints what is there.
Mutations are run one after another by a process that stays, kills and limits by processes of their own.

Outcomes: ``refused`` (an error with a sentence and an exit code of its own), ``same`` (exit 0 and the undamaged cube),
``explained`` (exit 0, another cube, and a warning that the undamaged input does not earn and that names the damaged
product or file), ``plausible`` (exit 0; a look at the file without hsfuse finds it well-formed and without a checksum
that was to be compared: other samples, or another setting, that nothing contradicts). Bad ones: ``crash``, ``hang``
(over 20 s of computing), ``bug`` (exit 1), ``wrong`` (exit 0, another cube, no word), ``silent`` (an exit code without
a sentence), ``lost`` (after a kill: other bytes, a foreign file touched, or something left in TMPDIR), ``missed`` (the
moment to be killed at never came).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fuzz_inputs
import numpy as np
import psutil
from fuzz_inputs import FORMATS, SETTINGS, Bench

from hsfuse.testing.damage import DAMAGES

HANG_CPU_S, HANG_WALL_S = 20.0, 300.0
"""A case hangs when it computes for longer, or, on however busy a machine, does not end."""
GOOD = frozenset({"refused", "same", "explained", "plausible"})
MOMENTS = (
    "rows stored", "rows counted", "product built", "publication marked", "old cube removed", "stale files removed",
    "moved companion", "moved cube", "journal removed",
)  # fmt: skip
_WARNING = re.compile(r"^\d\d:\d\d:\d\d W (.*)$", re.M)
_CASES_OF_A_WORKER = 150
"""Then another takes its place: what grows with every case must not decide the later ones."""
_server = multiprocessing.get_context("forkserver")
_own = threading.local()


@dataclass(frozen=True)
class Outcome:
    """What became of a case; ``about`` says what was damaged."""

    name: str
    outcome: str
    code: int | None
    seconds: float
    said: str = ""
    about: str = ""


# --- processes ---------------------------------------------------------------------------------------------------


def preload() -> None:
    """Let the server import what every case needs."""
    _server.set_forkserver_preload(["hsfuse.workflows.run", "hsfuse.workflows.steps.product", "hsfuse.cli.app"])


def _know_the_speed() -> None:
    """Take a speed for known: to measure it takes longer than everything else of such a run."""
    from hsfuse.inference.speed import MachineSpeed
    from hsfuse.workflows.steps import run_summary

    run_summary.measure_speed = lambda workers: MachineSpeed(1e11, 1e10, workers)  # type: ignore[attr-defined]


def _stand_in(scratch: str, streams: dict[str, str]) -> None:
    """Send the standard streams to files, and temporary files to the case's own folder."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(streams.get(name, f"{scratch}/{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, number)
        os.close(target)
    os.environ["TMPDIR"] = tempfile.tempdir = f"{scratch}/tmp"


def _child(arguments: list[str], scratch: str, moment: str, limits: dict[str, int], streams: dict[str, str]) -> None:
    """Run one command as the command line does, and end."""
    _stand_in(scratch, streams)
    _know_the_speed()
    if moment:
        _die_at(moment)
    if limits:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(kind, (value, value))
    sys.argv = ["hsfuse", *arguments]
    from hsfuse.__main__ import main

    main()


def _serve(channel: Any) -> None:
    """Run one command after another; answer with their exit codes."""
    from hsfuse.cli.app import app
    from hsfuse.process import own_process

    own_process(keep_freed_memory=True)
    _know_the_speed()
    with contextlib.suppress(EOFError):
        while True:
            arguments, scratch = channel.recv()
            _stand_in(scratch, {})
            try:
                app(arguments)
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 0
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            channel.send(code)


def _die_at(moment: str) -> None:
    from hsfuse.writers import cube_writer, journal, publish

    def reached(name: str) -> None:
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (cube_writer, journal, publish):
        module.reached = reached  # type: ignore[attr-defined]


class _Watch:
    """Tells when a process hangs."""

    def __init__(self, pid: int | None) -> None:
        self._pid, self._start, self._before = pid, time.monotonic(), _computed(pid)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def hangs(self) -> bool:
        return self.seconds > HANG_WALL_S or _computed(self._pid) - self._before > HANG_CPU_S


def _computed(pid: int | None) -> float:
    """Seconds that a process has computed; 0 when it is gone."""
    try:
        return float(sum(psutil.Process(pid).cpu_times()[:2]))
    except psutil.Error:
        return 0.0


class Worker:
    """A process that runs commands one after another."""

    def __init__(self) -> None:
        self._channel, theirs = _server.Pipe()
        self._process = _server.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.cases = 0

    def run(self, arguments: list[Any], scratch: Path) -> tuple[int | None, float, str]:
        """Run a command; return exit code (None: it hung; negative: a signal ended the process), seconds, words."""
        _empty(scratch)
        self.cases += 1
        watch = _Watch(self._process.pid)
        try:
            self._channel.send(([str(a) for a in arguments], str(scratch)))
            while not self._channel.poll(0.5):
                if watch.hangs:
                    self.end()
                    return None, watch.seconds, ""
            code = self._channel.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or -1
        return code, watch.seconds, _said(scratch)

    @property
    def usable(self) -> bool:
        """Whether it may be given another command."""
        return self._process.is_alive() and self.cases < _CASES_OF_A_WORKER

    def end(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.kill()
        self._process.join()


def serve(arguments: list[Any], scratch: Path) -> tuple[int | None, float, str]:
    """Run a command in this thread's own process that stays."""
    worker: Worker | None = getattr(_own, "worker", None)
    if worker is None or not worker.usable:
        end_worker()
        worker = _own.worker = Worker()
    return worker.run(arguments, scratch)


def end_worker() -> None:
    """End this thread's own process."""
    worker: Worker | None = getattr(_own, "worker", None)
    if worker is not None:
        worker.end()
        _own.worker = None


def call(
    arguments: list[Any], scratch: Path, *, moment: str = "", limits: dict[str, int] | None = None,
    streams: dict[str, str] | None = None,
) -> tuple[int | None, float, str]:  # fmt: skip
    """Run a command in a process of its own; the same answer as of :meth:`Worker.run`."""
    _empty(scratch)
    process = _server.Process(
        target=_child, args=([str(a) for a in arguments], str(scratch), moment, limits or {}, streams or {})
    )
    process.start()
    watch = _Watch(process.pid)
    while process.is_alive() and not watch.hangs:
        process.join(0.2)
    if process.is_alive():
        process.kill()
        process.join()
        return None, watch.seconds, ""
    return process.exitcode, watch.seconds, _said(scratch)


def _empty(scratch: Path) -> None:
    (scratch / "tmp").mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (scratch / name).write_bytes(b"")


def _said(scratch: Path) -> str:
    return "".join((scratch / name).read_text("utf-8", "replace") for name in ("stderr", "stdout"))


# --- mutations ---------------------------------------------------------------------------------------------------


def mutation(bench: Bench, name: str, scratch: Path) -> Outcome:
    """Damage one file of what a run reads, and fuse."""
    rng = random.Random(name)
    case = fuzz_inputs.copy_of(bench, rng, scratch / "in")
    before = case.target.read_bytes()
    after = before
    while after == before:
        after = DAMAGES[rng.choice(list(DAMAGES))](before, rng)
    case.target.write_bytes(after)
    output = scratch / "out.tif"
    code, seconds, said = serve(["run", *SETTINGS, *case.arguments, "-o", output], scratch)
    outcome, words = _ending(code, said), _last(said)
    if outcome == "done":
        outcome, words = _judge(bench, case, before, said, output)
    left = [item.name for item in (scratch / "tmp").iterdir()]
    return Outcome(name, "lost" if left else outcome, code, seconds, words, case.label)


def _judge(bench: Bench, case: fuzz_inputs.Case, before: bytes, said: str, output: Path) -> tuple[str, str]:
    """Outcome of a run that ended with exit 0, and what speaks for it."""
    if fuzz_inputs.same_cube(bench.cube(case.kind), output):
        return "same", ""
    usual = set(_WARNING.findall(bench.words(case.kind)))
    new = [text for text in _WARNING.findall(said) if text not in usual]
    naming = [text for text in new if any(name in text for name in case.names)]
    if naming:
        return "explained", naming[0][:300]
    why = fuzz_inputs.plausible(case, before)
    return ("plausible", why) if why else ("wrong", "; ".join(new)[:300])


def _ending(code: int | None, said: str) -> str:
    if code is None:
        return "hang"
    if code < 0:
        return "crash"
    if code == 1:
        return "bug"
    if code == 0:
        return "done"
    return "refused" if re.search(r"^error: \S", said, re.M) else "silent"


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("error: ")] or said.splitlines()[-1:]
    return lines[-1][:300] if lines else ""


# --- kills -------------------------------------------------------------------------------------------------------


def kill(bench: Bench, name: str, scratch: Path) -> Outcome:
    """Cut a run off at a named moment, go on, compare every byte with a run that was left alone."""
    _, file_format, story, moment = name.split(":")
    folder = scratch / "out"
    folder.mkdir(parents=True)
    output = folder / FORMATS[file_format]
    command = ["run", *SETTINGS, *bench.arguments("rasters"), "--format", file_format, "-o", output]
    foreign = [folder / "foreign.txt", folder / f"{output.name}.foreign", folder / "out.xml"]
    for item in foreign:
        item.write_text("mine")
    flags: list[str] = []
    if story == "overwrite":
        serve([*command, "--seed", "5"], scratch)
        flags = ["--overwrite"]
    if story == "resumed":
        call(command, scratch, moment="rows counted")
        flags = ["--resume"]
    killed, seconds, said = call([*command, *flags], scratch, moment=moment)
    if killed != -signal.SIGKILL:
        return Outcome(name, "missed", killed, seconds, _last(said))
    code, _, said = serve([*command, *sorted({*flags, "--resume"})], scratch)
    outcome = "same" if code == 0 else _ending(code, said)
    mine = [item.name for item in foreign]
    same = {k: v for k, v in _bytes(folder).items() if k not in mine} == _bytes(bench.folder / file_format)
    whole_left = not any((scratch / "tmp").iterdir()) and all(item.read_text() == "mine" for item in foreign)
    if outcome == "same" and not (same and whole_left):
        outcome = "lost"
    return Outcome(name, outcome, killed, seconds, "" if outcome == "same" else _last(said))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {item.relative_to(folder).as_posix(): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


# --- limits ------------------------------------------------------------------------------------------------------

LIMITS: dict[str, tuple[dict[str, int], dict[str, str]]] = {
    **{f"FSIZE={2**n}": ({"FSIZE": 2**n}, {}) for n in range(8, 24)},
    **{f"NOFILE={n}": ({"NOFILE": n}, {}) for n in (8, 12, 16, 20, 24, 32, 48, 64)},
    **{f"AS={n}M": ({"AS": n << 20}, {}) for n in (300, 500, 700, 900, 1100, 1300, 1500, 2000, 3000, 5000)},
    **{f"STACK={n}K": ({"STACK": n << 10}, {}) for n in (64, 256, 1024)},
    "stdout=full": ({}, {"stdout": "/dev/full"}),
    "stderr=full": ({}, {"stderr": "/dev/full"}),
    "both=full": ({}, {"stdout": "/dev/full", "stderr": "/dev/full"}),
}


def limit(bench: Bench, name: str, scratch: Path) -> Outcome:
    """Fuse with too little of something; then, without the limit, go on."""
    limits, streams = LIMITS[name.split(":", 1)[1]]
    output = scratch / "out" / "out.tif"
    output.parent.mkdir(parents=True)
    command = ["run", *SETTINGS, *bench.arguments("rasters"), "-o", output]
    code, seconds, said = call(command, scratch, limits=limits, streams=streams)
    # Where nothing can be said, the exit code has to do.
    outcome = "refused" if "stderr" in streams and code not in (None, 0, 1) and code > 0 else _ending(code, said)
    expected = bench.cube("rasters")
    if outcome == "done":
        outcome = "same" if fuzz_inputs.same_cube(expected, output) else "wrong"
    elif outcome == "refused" and output.exists():
        outcome = outcome if fuzz_inputs.same_cube(expected, output) else "lost"
    left = [item.name for item in (scratch / "tmp").iterdir()]
    if outcome in GOOD:
        again, _, more = serve([*command, "--resume"], scratch)
        if left or again != 0 or not fuzz_inputs.same_cube(expected, output):
            outcome, said = "lost", f"{more} {left}"
    return Outcome(name, outcome, code, seconds, _last(said))


# --- the whole ---------------------------------------------------------------------------------------------------

Run = Callable[[Bench, str, Path], Outcome]


def cases(mutations: int) -> Iterator[tuple[str, Run]]:
    """Yield all cases: name and what runs it."""
    for number in range(mutations):
        yield f"mutation:{number}", mutation
    for file_format in FORMATS:
        for story in ("fresh", "overwrite", "resumed"):
            for moment in MOMENTS:
                if story == "overwrite" or moment not in ("old cube removed",):
                    yield f"kill:{file_format}:{story}:{moment}", kill
    for name in LIMITS:
        yield f"limit:{name}", limit


def run_case(bench: Bench, name: str, what: Run) -> Outcome:
    """Run one case in a folder of its own, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="hsfuse-fuzz-") as scratch:
        return what(bench, name, Path(scratch))


def table(outcomes: list[Outcome]) -> str:
    """Count outcomes by kind of case; bad ones are listed."""
    columns = ("cases", *sorted(GOOD), "bad")
    lines = [f"{'':<24}" + "".join(f"{column:>11}" for column in columns)]
    for kind in ("mutation", "kill", "limit"):
        mine = [o for o in outcomes if o.name.startswith(f"{kind}:")]
        groups = sorted({_group(o) for o in mine})
        lines += [_row(f"{kind}s", mine)]
        lines += [_row(f"  {group}", [o for o in mine if _group(o) == group]) for group in groups if len(groups) > 1]
    lines += [f"{o.outcome:<7}{o.name} {o.about}  exit {o.code}, {o.seconds:.0f} s  {o.said}" for o in outcomes
              if o.outcome not in GOOD]  # fmt: skip
    return "\n".join(lines)


def _group(outcome: Outcome) -> str:
    """What was damaged, or which story was cut off."""
    parts = outcome.name.split(":")
    if parts[0] == "mutation":
        return outcome.about.partition("/")[0]
    return parts[2] if len(parts) > 2 else parts[1].split("=")[0]


def _row(title: str, outcomes: list[Outcome]) -> str:
    count = Counter(o.outcome for o in outcomes)
    bad = sum(number for name, number in count.items() if name not in GOOD)
    numbers = (len(outcomes), *(count[name] for name in sorted(GOOD)), bad)
    return f"{title:<24}" + "".join(f"{number:>11}" for number in numbers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument("--only", choices=("mutations", "kills", "limits"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing, print what is known")
    args = parser.parse_args()
    preload()
    done: dict[str, Outcome] = {}
    if args.output.exists():
        known = (Outcome(**json.loads(line)) for line in args.output.read_text().splitlines())
        done = {outcome.name: outcome for outcome in known}
    wanted = [(name, what) for name, what in cases(args.mutations)
              if args.only is None or name.startswith(args.only.rstrip("s"))]  # fmt: skip
    todo = [] if args.table else [(name, what) for name, what in wanted if name not in done]
    print(f"{len(wanted)} cases, {len(wanted) - len(todo)} known", flush=True)
    if todo:
        bench = fuzz_inputs.prepare(args.output.with_suffix(".inputs"), call)
        with ThreadPoolExecutor(args.jobs) as pool, args.output.open("a") as stream:
            for (name, _), outcome in zip(todo, pool.map(lambda case: run_case(bench, *case), todo), strict=True):
                done[name] = outcome
                stream.write(json.dumps(asdict(outcome)) + "\n")
                stream.flush()
    outcomes = [done[name] for name, _ in wanted if name in done]
    print(table(outcomes))
    return int(any(o.outcome not in GOOD for o in outcomes))


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
