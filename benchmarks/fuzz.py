"""Damaged inputs, kills and limits: what becomes of a run, case by case, with a table at the end.

    python benchmarks/fuzz.py OUT.jsonl [--mutations 1500] [--only mutations|kills|limits] [--jobs 1] [--write PAGE]

Every case has a name, and everything random in it comes from that name, so the same case is always the same. Cases
whose outcome stands in OUT.jsonl already are passed over: run it again to go on; ``--table`` prints what is there.
``--write docs/reliability.md`` puts the table, the date and the command into that page when every case is good.
Mutations are run one after another by a process that stays, kills and limits by processes of their own.

Outcomes: ``refused`` (an error with a sentence and an exit code of its own), ``same`` (exit 0 and the undamaged cube),
``explained`` (exit 0, another cube, and a warning that the undamaged input does not earn and that names the damaged
product or file), ``plausible`` (exit 0; a look at the file without hsfuse finds it well-formed and without a checksum
that was to be compared: other samples, or another setting, that nothing contradicts). Bad ones: ``crash``, ``hang``
(over 20 s of computing, or a minute of doing nothing), ``bug`` (exit 1), ``wrong`` (exit 0, another cube, no word),
``silent`` (an exit code without a sentence), ``lost`` (after a kill: other bytes, a foreign file touched, or something
left in TMPDIR), ``missed`` (the moment to be killed at never came).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import fuzz_inputs
import numpy as np
from fuzz_inputs import FORMATS, SETTINGS, Bench
from fuzz_processes import call, call_fresh, preload, serve

from hsfuse.testing.damage import DAMAGES

GOOD = frozenset({"refused", "same", "explained", "plausible"})
MOMENTS = (
    "rows stored", "rows counted", "product built", "publication marked", "old cube removed", "stale files removed",
    "moved companion", "moved cube", "journal removed",
)  # fmt: skip
_WARNING = re.compile(r"^\d\d:\d\d:\d\d W (.*)$", re.M)


@dataclass(frozen=True)
class Outcome:
    """What became of a case; ``about`` says what was damaged."""

    name: str
    outcome: str
    code: int | None
    seconds: float
    said: str = ""
    about: str = ""


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
    # Where the libraries are still to be loaded; the others have them.
    **{f"ulimit -v={n}M": ({"fresh": n << 20}, {}) for n in (150, 250, 310, 450, 500, 930, 1120, 1500)},
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
    if "fresh" in limits:
        code, seconds, said = call_fresh(command, scratch, address_space=limits["fresh"])
    else:
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


_TABLE = re.compile(r"(<!-- fuzz -->\n).*?(<!-- end of fuzz -->)", re.S)


def write_page(page: Path, outcomes: list[Outcome]) -> None:
    """Put the table, with its date and command, between the marks of a page.

    Raises
    ------
    ValueError
        The page has no marks, or a case is bad.
    """
    text = page.read_text("utf-8")
    if not _TABLE.search(text) or any(o.outcome not in GOOD for o in outcomes):
        raise ValueError(f"{page}: there are no marks for the table, or cases are bad")
    today = datetime.now(UTC).date()
    cores = len(os.sched_getaffinity(0))
    made = f"`python benchmarks/fuzz.py OUT.jsonl`, {today.day} {today:%B %Y}, {cores} cores"
    found = f"{made}, by the command line's own code:\n\n```\n{table(outcomes)}\n```\n"
    page.write_text(_TABLE.sub(lambda match: f"{match[1]}{found}{match[2]}", text), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument("--only", choices=("mutations", "kills", "limits"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, if all is good")
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
    bad = len(outcomes) < len(wanted) or any(o.outcome not in GOOD for o in outcomes)
    if args.write and not bad:
        write_page(args.write, outcomes)
    return int(bad)


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
