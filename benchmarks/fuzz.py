"""Damaged inputs, kills and limits: what becomes of a run, case by case, with a table at the end.

    python benchmarks/fuzz.py OUT.jsonl [--mutations 1500] [--only mutations|kills|limits] [--jobs 2]

Every case has a name, and everything random in it comes from that name, so the same case is always the same. Cases
whose outcome stands in OUT.jsonl already are passed over: run it again to go on. Each case is a process of its own,
made by a server that has imported everything.

Outcomes: ``refused`` (an error with a sentence and an exit code of its own), ``same`` (exit 0 and the undamaged cube),
``explained`` (exit 0, another cube, and a warning), ``payload`` (exit 0; only samples that carry no checksum were hit,
and only they differ). Bad ones: ``crash``, ``hang`` (over 20 s of computing), ``bug`` (exit 1), ``wrong`` (exit 0,
another cube, no word), ``silent`` (an exit code without a sentence), ``lost`` (after a kill: other bytes, a foreign
file touched, or something left in TMPDIR).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HANG_CPU_S, HANG_WALL_S = 20.0, 300.0
"""A case hangs when it computes for longer, or, on however busy a machine, does not end."""
GOOD = frozenset({"refused", "same", "explained", "payload"})
MOMENTS = (
    "rows stored", "rows counted", "product built", "publication marked", "old cube removed", "stale files removed",
    "moved companion", "moved cube", "journal removed",
)  # fmt: skip
FORMATS = {"gtiff": "out.tif", "cog": "out.tif", "envi": "out.img"}
WORDS = (b"nan", b"inf", b"-1", b"0", b"1e30", b"", b"{", b"true", b"9" * 20, b"\xff\xfe", b"a" * 5000, b"-9999", b"\0")
SETTINGS = ("--method", "bicubic", "--bands", "12", "--coregister", "off", "--psf-fwhm", "1", "--no-report",
            "--no-progress", "--threads", "1", "--device", "cpu")  # fmt: skip
_server = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    name: str
    outcome: str
    code: int | None
    seconds: float
    said: str = ""


@dataclass(frozen=True)
class Bench:
    """Undamaged inputs and the cubes that they give."""

    folder: Path

    @property
    def inputs(self) -> dict[str, tuple[Path, Path]]:
        """Kind of pair -> HSI and MSI."""
        safe = next(self.folder.glob("*.SAFE"))
        return {"products": (next(self.folder.glob("*.he5")), safe),
                "rasters": (self.folder / "hsi.img", self.folder / "msi.tif")}  # fmt: skip

    def cube(self, kind: str) -> np.ndarray:
        """Undamaged cube of a pair."""
        return _stored(self.folder / f"{kind}.tif")


def prepare(folder: Path) -> Bench:
    """Make the inputs, and the cubes of undamaged ones."""
    from hsfuse.testing import small_scene
    from hsfuse.workflows.simulate import simulate_products

    bench = Bench(folder)
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        simulate_products(folder, rows=40, cols=40, seed=1, clouds=0.02)
        scene = small_scene(1)
        scene.write_msi(folder / "msi.tif")
        _write_envi(folder / "hsi.img", scene)
        for kind, (hsi, msi) in bench.inputs.items():
            code, _, said = call(["run", hsi, msi, "-o", folder / f"{kind}.tif", *SETTINGS], folder)
            if code != 0:
                raise RuntimeError(f"the undamaged {kind} cannot be fused: {said}")
        for file_format, name in FORMATS.items():
            (folder / file_format).mkdir()
            hsi, msi = bench.inputs["rasters"]
            call(["run", hsi, msi, "-o", folder / file_format / name, *SETTINGS, "--format", file_format], folder)
        (folder / "ready").touch()
    return bench


def _write_envi(path: Path, scene: Any) -> None:
    from hsfuse.writers import CubeWriter, WriteOptions

    with CubeWriter(path, scene.grid, scene.bands, WriteOptions(), identity="x", provenance={}) as writer:
        writer.write_rows(0, scene.hsi)
        writer.finish()
    path.with_name(path.name + ".stac.json").unlink()


# --- processes ---------------------------------------------------------------------------------------------------


def preload() -> None:
    """Let the server import what every case needs."""
    _server.set_forkserver_preload(["hsfuse.workflows.run", "hsfuse.workflows.steps.product", "hsfuse.cli.app"])


def _child(arguments: list[str], scratch: str, moment: str, limits: dict[str, int], streams: dict[str, str]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(streams.get(name, f"{scratch}/{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, number)
    os.environ["TMPDIR"] = tempfile.tempdir = f"{scratch}/tmp"
    if moment:
        _die_at(moment)
    if limits:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    sys.argv = ["hsfuse", *arguments]
    from hsfuse.__main__ import main

    main()


def _die_at(moment: str) -> None:
    from hsfuse.writers import cube_writer, journal, publish

    def reached(name: str) -> None:
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (cube_writer, journal, publish):
        module.reached = reached  # type: ignore[attr-defined]


def _computed(pid: int | None) -> float:
    """Seconds that a process has computed; 0 when it is gone."""
    try:
        return float(sum(psutil.Process(pid).cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def call(
    arguments: list[Any], scratch: Path, *, moment: str = "", limits: dict[str, int] | None = None,
    streams: dict[str, str] | None = None,
) -> tuple[int | None, float, str]:  # fmt: skip
    """Run a command; return exit code (None: it hung), seconds and what it said."""
    (scratch / "tmp").mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (scratch / name).write_bytes(b"")
    start = time.monotonic()
    process = _server.Process(
        target=_child, args=([str(a) for a in arguments], str(scratch), moment, limits or {}, streams or {})
    )
    process.start()
    while process.is_alive() and time.monotonic() - start < HANG_WALL_S and _computed(process.pid) < HANG_CPU_S:
        process.join(0.2)
    seconds = time.monotonic() - start
    if process.is_alive():
        process.kill()
        process.join()
        return None, seconds, ""
    said = "".join((scratch / name).read_text("utf-8", "replace") for name in ("stderr", "stdout"))
    return process.exitcode, seconds, said


# --- damage ------------------------------------------------------------------------------------------------------


def _words(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    spots = [match.span() for match in re.finditer(rb"[0-9.]+|[A-Za-z_]{3,}", raw[:200_000])]
    for first, last in sorted(rng.sample(spots, min(len(spots), rng.choice((1, 2, 4)))), reverse=True):
        changed[first:last] = rng.choice(WORDS)
    return bytes(changed)


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 5, 30))):
        changed[rng.randrange(min(6000, len(raw)) if rng.random() < 0.6 else len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _hole(raw: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(raw))
    length = min(rng.choice((4, 100, 5000)), len(raw) - first)
    return raw[:first] + bytes(length) + raw[first + length :]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + rng.choice([raw[place : place + 200], *WORDS]) + raw[place:]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": _flip, "cut": _cut, "hole": _hole, "insert": _insert, "words": _words,
}  # fmt: skip


def mutation(bench: Bench, name: str, scratch: Path) -> Outcome:
    """Damage one file of a pair, and fuse it."""
    rng = random.Random(name)
    kind = rng.choice(("products", "products", "rasters"))
    pair = [_copied(path, scratch / "in") for path in bench.inputs[kind]]
    target = rng.choice(_targets(pair))
    before = target.read_bytes()
    after = DAMAGE[rng.choice(("words", "cut", "insert", "flip", "hole"))](before, rng)
    target.write_bytes(after)
    output = scratch / "out.tif"
    flags = ["--no-verify"] if rng.random() < 0.5 else []
    code, seconds, said = call(["run", *pair, "-o", output, *SETTINGS, *flags], scratch)
    outcome = _ending(code, said)
    if outcome == "done":
        outcome = _compare(bench.cube(kind), output, said)
        if outcome == "wrong" and _only_payload(before, after, target, verified=not flags):
            outcome = "payload"
    left = [item.name for item in (scratch / "tmp").iterdir()]
    return Outcome(name, "lost" if left else outcome, code, seconds, _last(said) if outcome != "same" else "")


def _copied(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    for item in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(item, folder)
    return folder / path.name


def _targets(pair: list[Path]) -> list[Path]:
    found = []
    for path in pair:
        # Raw samples of ENVI carry nothing that damage could contradict: the header is what is tried.
        found += [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [
            path.with_suffix(".hdr") if path.suffix == ".img" else path
        ]  # fmt: skip
    return sorted(found)


def _ending(code: int | None, said: str) -> str:
    if code is None:
        return "hang"
    if code < 0:
        return "crash"
    if code == 1:
        return "bug"
    if code == 0:
        return "done"
    return "refused" if re.search(r"^(error: |.*Error)", said, re.M) else "silent"


def _compare(expected: np.ndarray, output: Path, said: str) -> str:
    cube = _stored(output)
    if cube.shape == expected.shape and np.array_equal(cube, expected):
        return "same"
    return "explained" if re.search(r"^\d\d:\d\d:\d\d W ", said, re.M) else "wrong"


def _only_payload(before: bytes, after: bytes, target: Path, *, verified: bool) -> bool:
    """Whether only samples were hit that carry no checksum, or one that the user did not want to be compared."""
    if target.suffix == ".jp2":
        return not verified
    if len(before) != len(after) or target.suffix not in (".he5", ".tif"):
        return False
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return bool(changed) and changed[0] > 6000


def _stored(path: Path) -> np.ndarray:
    import rasterio

    with rasterio.open(path) as dataset:
        return dataset.read()


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("error: ")] or said.splitlines()[-1:]
    return lines[-1][:300] if lines else ""


# --- kills -------------------------------------------------------------------------------------------------------


def kill(bench: Bench, name: str, scratch: Path) -> Outcome:
    """Cut a run off at a named moment, go on, compare every byte with a run that was left alone."""
    _, file_format, story, moment = name.split(":")
    hsi, msi = bench.inputs["rasters"]
    folder = scratch / "out"
    folder.mkdir(parents=True)
    output = folder / FORMATS[file_format]
    command = ["run", hsi, msi, *SETTINGS, "--format", file_format]
    (folder / "foreign.txt").write_text("mine")
    flags: list[str] = []
    if story == "overwrite":
        call([*command, "-o", output, "--seed", "5"], scratch)
        flags = ["--overwrite"]
    if story == "resumed":
        call([*command, "-o", output], scratch, moment="rows counted")
        flags = ["--resume"]
    killed, seconds, said = call([*command, "-o", output, *flags], scratch, moment=moment)
    resume = sorted({*flags, "--resume"})
    code, _, said = call([*command, "-o", output, *resume], scratch)
    outcome = "same" if code == 0 else _ending(code, said)
    same = {k: v for k, v in _bytes(folder).items() if k != "foreign.txt"} == _bytes(bench.folder / file_format)
    whole_left = not any((scratch / "tmp").iterdir()) and (folder / "foreign.txt").read_text() == "mine"
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
    hsi, msi = bench.inputs["rasters"]
    output = scratch / "out" / "out.tif"
    output.parent.mkdir(parents=True)
    command = ["run", hsi, msi, "-o", output, *SETTINGS]
    code, seconds, said = call(command, scratch, limits=limits, streams=streams)
    # Where nothing can be said, the exit code has to do.
    outcome = "refused" if "stderr" in streams and code not in (None, 0, 1) and code > 0 else _ending(code, said)
    if outcome == "done":
        outcome = _compare(bench.cube("rasters"), output, "")
    elif outcome == "refused" and output.exists():
        outcome = "lost" if _compare(bench.cube("rasters"), output, "") != "same" else outcome
    if outcome in GOOD:
        again, _, more = call([*command, "--resume"], scratch)
        if again != 0 or _compare(bench.cube("rasters"), output, "") != "same":
            outcome, said = "lost", more
    return Outcome(name, outcome, code, seconds, _last(said))


# --- the whole ---------------------------------------------------------------------------------------------------


def cases(mutations: int) -> Iterator[tuple[str, Callable[[Bench, str, Path], Outcome]]]:
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


def run_case(bench: Bench, name: str, what: Callable[[Bench, str, Path], Outcome]) -> Outcome:
    """Run one case in a folder of its own, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="hsfuse-fuzz-") as scratch:
        return what(bench, name, Path(scratch))


def table(outcomes: list[Outcome]) -> str:
    """Count outcomes by kind of case; bad ones are listed."""
    lines = [f"{'':<10}" + "".join(f"{kind:>11}" for kind in ("cases", *sorted(GOOD), "bad"))]
    for kind in ("mutation", "kill", "limit"):
        mine = [o for o in outcomes if o.name.startswith(f"{kind}:")]
        count = Counter(o.outcome for o in mine)
        bad = sum(n for name, n in count.items() if name not in GOOD)
        lines.append(
            f"{kind:<10}{len(mine):>11}" + "".join(f"{count[name]:>11}" for name in sorted(GOOD)) + f"{bad:>11}"
        )
    lines += [f"{o.outcome:<7}{o.name}  exit {o.code}, {o.seconds:.0f} s  {o.said}" for o in outcomes
              if o.outcome not in GOOD]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument("--only", choices=("mutations", "kills", "limits"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    preload()
    done: dict[str, Outcome] = {}
    if args.output.exists():
        done = {o.name: o for o in (Outcome(**json.loads(line)) for line in args.output.read_text().splitlines())}
    bench = prepare(args.output.with_suffix(".inputs"))
    wanted = [(name, what) for name, what in cases(args.mutations)
              if args.only is None or name.startswith(args.only.rstrip("s"))]  # fmt: skip
    todo = [(name, what) for name, what in wanted if name not in done]
    print(f"{len(wanted)} cases, {len(wanted) - len(todo)} known", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool, args.output.open("a") as stream:
        for outcome in pool.map(lambda case: run_case(bench, *case), todo):
            done[outcome.name] = outcome
            stream.write(json.dumps(asdict(outcome)) + "\n")
            stream.flush()
    outcomes = [done[name] for name, _ in wanted]
    print(table(outcomes))
    return int(any(o.outcome not in GOOD for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
