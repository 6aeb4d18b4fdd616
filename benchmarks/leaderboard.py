"""Every method on the same pairs of the test sites: one table, what loses to a classic is shown losing.

    python benchmarks/leaderboard.py              # everything, into docs/leaderboard.md and .html
    python benchmarks/leaderboard.py --quick      # three sites, ratio 3, two settings: minutes, to the screen

Settings: noise-free, 35 dB and field at ratios 3 and 4; a changed pair (field, with parcels, shadows, clouds, season
and haze that the guide alone shows, repaired as `hsfuse run` repairs it); cubes of other bands; and ratio 6 with one
panchromatic band, which methods take whose bands are free. One cube stands for each site, so that no site counts twice,
and its middle for a large cube. Networks are scored as `hsfuse run` uses them; a network whose record names a test site
is refused. Times are processor time of fit and fusion.

Finished rows are kept in ``--records`` while code and weights stay the same: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from leaderboard_runs import SETTINGS, scenes_to_score, score_scene, weights_of
from leaderboard_tables import markdown, page, rows_of
from quality import git_commit, was_seen

import hsfuse
from hsfuse.workflows.steps.method_specification import MethodSpecification, all_specifications, parse_specification

BENCHMARKS = Path(__file__).resolve().parent
BUDGETS = {"uhntc": "uhntc:steps=60,sensor_steps=20"}
"""Methods that learn on every scene, with steps that all settings and sites can pay for; the table says so."""
QUICK = ("ratio 3, 35dB", "ratio 3, changed")
QUICK_SITES = ("gulfport", "texas_coast", "suwannee")
LARGEST = 96
"""Side of a crop, fine pixels: the least at which corrections can be tested on the scene at ratio 4."""
RECORDS = BENCHMARKS.parent / "scratch" / "leaderboard.jsonl"


def code_hash(largest: int) -> str:
    """What rows depend on beside their weights."""
    found = hashlib.sha256(str(largest).encode())
    package = Path(hsfuse.__file__).parent
    own = [BENCHMARKS / f"{name}.py" for name in ("leaderboard_runs", "pair_changes", "quality_scenes", "real_pairs")]
    for path in [*sorted(package.rglob("*.py")), *own, BENCHMARKS / "sites.toml"]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def kept_rows(records: Path, code: str) -> list[dict[str, Any]]:
    """Rows and sittings of an earlier run of the same code; those of other code are put aside."""
    if records.is_file():
        lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
        if lines and lines[0].get("code") == code:
            return lines[1:]
        records.replace(records.with_suffix(".old"))
    records.parent.mkdir(parents=True, exist_ok=True)
    records.write_text(json.dumps({"code": code}) + "\n", encoding="utf-8")
    return []


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or BENCHMARKS.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--methods", nargs="*", default=[], help="default: everything that can run")
    parser.add_argument("--settings", nargs="*", default=[], choices=[s.name for s in SETTINGS])
    parser.add_argument("--sites", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true", help="three sites, two settings, without uhntc")
    parser.add_argument(
        "--largest", type=int, default=LARGEST, help="largest side of a scene, fine pixels; the middle is used"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--output", type=Path, help="Markdown table; the page is written beside it")
    parser.add_argument("--records", type=Path, default=RECORDS, help="every score, a JSON object a line")
    args = parser.parse_args(arguments)
    if args.quick:
        args.settings, args.sites = args.settings or list(QUICK), args.sites or list(QUICK_SITES)
    elif not (args.methods or args.settings or args.sites or args.output):
        args.output = BENCHMARKS.parent / "docs" / "leaderboard.md"
    return args


def wanted(args: argparse.Namespace) -> list[MethodSpecification]:
    if args.methods:
        return [parse_specification(text) for text in args.methods]
    found = [parse_specification(BUDGETS.get(spec.label, spec.label)) for spec in all_specifications()]
    return [spec for spec in found if not (args.quick and spec.name in BUDGETS)]


def jobs(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    """Settings and scenes with the methods that are still to be run on them.

    Raises
    ------
    SystemExit
        A network was trained on a test scene.
    """
    specs = wanted(args)
    done = {(r["setting"], r["scene"], r["method"], r["weights"]) for r in rows}
    scenes = scenes_to_score(args.data, tuple(args.sites), args.largest)
    weights = {spec.label: weights_of(spec) for spec in specs}
    for spec in (spec for spec in specs if spec.network):
        for scene in scenes:
            if was_seen(spec.header(), scene.usual):
                raise SystemExit(f"{spec.label} was trained on {scene.usual.file}: that is no test.")
    for setting in SETTINGS:
        if args.settings and setting.name not in args.settings:
            continue
        for scene in (scene for scene in scenes if scene.own_bands == setting.own_bands):
            left = [label for label, sha in weights.items() if (setting.name, scene.site, label, sha) not in done]
            if left:
                yield setting.name, scene.site, left


def score(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything that no earlier run has done; returns all rows, and the sittings that it took."""
    rows = kept_rows(args.records, code_hash(args.largest))
    start, load = time.monotonic(), os.getloadavg()[0]
    fixed = args.data, tuple(args.sites), args.largest
    todo = list(jobs(args, [r for r in rows if "setting" in r]))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max(1, args.workers), context) as pool:
            try:
                for future in as_completed([pool.submit(score_scene, *fixed, *job, args.records) for job in todo]):
                    print("\n".join(future.result()), flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        sitting = {
            "wall_minutes": (time.monotonic() - start) / 60.0,
            "core_minutes": sum(u.ru_utime + u.ru_stime for u in used) / 60.0, "load": [load, os.getloadavg()[0]],
        }  # fmt: skip
        if todo:
            with args.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"sitting": sitting}) + "\n")
    return kept_rows(args.records, code_hash(args.largest))


def current(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows that were asked for and come from present weights, the last of each."""
    weights = {spec.label: weights_of(spec) for spec in wanted(args)}
    scenes = {scene.site for scene in scenes_to_score(args.data, tuple(args.sites), args.largest)}
    found = {
        (r["setting"], r["scene"], r["method"]): r
        for r in rows
        if "setting" in r and r["scene"] in scenes and weights.get(r["method"]) == r["weights"]
        and (not args.settings or r["setting"] in args.settings)
    }  # fmt: skip
    return list(found.values())


def _typed(words: Sequence[str]) -> list[str]:
    """What was asked for, without where files lie."""
    places = {
        i + step for i, word in enumerate(words) if word in ("--data", "--output", "--records") for step in (0, 1)
    }
    return [f'"{word}"' if " " in word else word for i, word in enumerate(words) if i not in places]


def reasons_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why methods did not run: a line for each reason, with the methods, and the settings with their scenes."""
    found: dict[str, tuple[dict[str, None], dict[str, set[str]]]] = {}
    for row in rows:
        # What differs between the networks of a reason is their name alone.
        methods, settings = found.setdefault(row["left_out"].replace(f" '{row['method']}'", ""), ({}, {}))
        methods[row["method"]] = None
        settings.setdefault(row["setting"], set()).add(row["scene"])
    return [
        f"{reason} {', '.join(methods)} ({'; '.join(f'{name}: {len(sites)}' for name, sites in settings.items())})"
        for reason, (methods, settings) in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    rows = score(args)
    sittings = [r["sitting"] for r in rows if "sitting" in r]
    kept = current(rows, args)
    done = [r for r in kept if "left_out" not in r]
    table = [row for setting in SETTINGS for row in rows_of(done, setting.name)]
    left_out = reasons_of([r for r in kept if "left_out" in r])
    words = sys.argv[1:] if arguments is None else arguments
    load = ", ".join(f"{s['load'][0]:.0f}" for s in sittings)
    wall, core = (sum(s[key] for s in sittings) for key in ("wall_minutes", "core_minutes"))
    facts = {
        "command": " ".join(["python benchmarks/leaderboard.py", *_typed(words)]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": git_commit(),
        "device": f"cpu, {args.workers} processes of one thread, {platform.machine()}",
        "time": f"{core:.0f} core-minutes, {wall:.0f} minutes in {len(sittings)} sitting(s)",
        "load of the machine when it began": f"{load} ({os.cpu_count()} cores)",
        "torch": torch.__version__, "sites": ", ".join(dict.fromkeys(r["scene"] for r in done)),
    }  # fmt: skip
    text = markdown(table, facts, left_out)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
        args.output.with_suffix(".html").write_text(page(table, facts), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
