"""Every method on the same pairs of the test sites: one table, what loses to a classic is shown losing.

    python benchmarks/leaderboard.py --data ../shared/data --output docs/leaderboard.md
    python benchmarks/leaderboard.py --quick                 # three sites, ratio 3, two settings: minutes

Settings: noise-free, 35 dB and field at ratios 3 and 4; a changed pair (field, with parcels, shadows, clouds, season
and haze that the guide alone shows, repaired as `hsfuse run` repairs it); and ratio 6 with one panchromatic band, which
methods take whose bands are free. One cube stands for each site, so that no site counts twice. Networks are scored as
`hsfuse run` uses them; a network whose record names a test site is refused. Times are processor time of fit and fusion.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from pair_changes import changed_guide
from quality import git_commit, was_seen
from quality_scenes import ReferenceScene, prisma_like_bands, read_cube
from real_pairs import split_scenes

from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.metrics.reference import score_all
from hsfuse.resources import Resources
from hsfuse.sensors.prisma import pan_response
from hsfuse.simulate.wald import CONDITIONS, reduce_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.memory import PeakMemory
from hsfuse.workflows.steps.method_specification import MethodSpecification, all_specifications, parse_specification
from hsfuse.workflows.steps.resources import resolved

TEXTBOOK = ("bicubic", "gsa", "glp:adaptive=false", "cnmf", "nlstf")
"""Published classics: a network is held against the best of them on every scene."""
BASELINE = "glp"
SCORES = {"PSNR": (2, 1), "SAM": (2, -1), "ERGAS": (2, -1), "Q2n": (4, 1), "SSIM": (4, 1)}
"""Decimals, and whether more is better."""


@dataclass(frozen=True)
class Setting:
    """One kind of pair."""

    name: str
    ratio: int
    condition: str
    changed: bool = False
    pan: bool = False


SETTINGS = (
    *(Setting(f"ratio {ratio}, {name}", ratio, name) for ratio in (3, 4) for name in ("noise-free", "35dB", "field")),
    Setting("ratio 3, changed", 3, "field", changed=True),
    Setting("ratio 4, changed", 4, "field", changed=True),
    Setting("ratio 6, PAN", 6, "field", pan=True),
)
QUICK = ("ratio 3, 35dB", "ratio 3, changed")
QUICK_SITES = ("gulfport", "texas_coast", "suwannee")


def scenes_to_score(data: Path, sites: Sequence[str], largest: int) -> list[tuple[str, ReferenceScene, ReferenceScene]]:
    """Site, its scene with the four 10 m bands, and the same with one panchromatic band."""
    found: dict[str, tuple[str, ReferenceScene, ReferenceScene]] = {}
    count = len(prisma_like_bands())
    for site, scene in split_scenes("test", data):
        # A cube that ends near 1 um cannot show a network the bands that it was trained on.
        if (sites and site not in sites) or len(scene.bands) != count:
            continue
        if site in found and found[site][1].cube[0].size >= scene.cube[0].size:
            continue
        file = next(iter([*data.glob(f"cubes/{scene.file}.npz"), *data.glob(f"*/{scene.file}.tif")]))
        cube, own = read_cube(file, largest=largest)
        more = {"target": prisma_like_bands(), "file": scene.file}
        pair = (
            ReferenceScene.make(scene.name, cube, own, responses, **more)
            for responses in (scene.responses, [pan_response()])
        )
        found[site] = site, *pair
    return list(found.values())


def fused(spec: MethodSpecification, scene: ReferenceScene, setting: Setting, resources: Resources) -> dict[str, Any]:
    """Scores of a method on one pair; seconds and memory of fit and fusion."""
    guide = changed_guide(scene.msi, "mix", seed=len(scene.name))[0] if setting.changed else scene.msi
    pair = reduce_scene(scene.cube, guide, setting.ratio, CONDITIONS[setting.condition], name=scene.name)  # type: ignore[index]
    whole = array_scene(pair.hsi, pair.msi, scene.bands, scene.responses, setting.ratio, Psf(1.0))
    if setting.changed:
        whole = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
    method = spec.create()
    start = time.process_time()
    with PeakMemory() as memory:
        cube = pipeline.fuse_to_array(method, whole, resources)
        seconds = time.process_time() - start
    parameters = sum(p.numel() for p in method.network.parameters()) if hasattr(method, "network") else None
    return score_all(pair.truth, cube, setting.ratio).to_json() | {
        "seconds_per_mpx": seconds / (1e-6 * cube[0].size), "memory_mb": memory.growth_bytes / 1e6,
        "parameters": parameters,
    }  # fmt: skip


def gains(records: Sequence[dict[str, Any]], method: str, rivals: Sequence[str]) -> tuple[float, float] | None:
    """Mean and worst gain in PSNR over the best rival of each scene."""
    found = []
    for record in (r for r in records if r["method"] == method):
        others = [r["PSNR"] for r in records if r["scene"] == record["scene"] and r["method"] in rivals]
        if others:
            found.append(record["PSNR"] - max(others))
    return (float(np.mean(found)), float(np.min(found))) if found else None


def rows_of(records: Sequence[dict[str, Any]], setting: str) -> list[dict[str, Any]]:
    """One row for each method, best first."""
    own = [r for r in records if r["setting"] == setting]
    rows = []
    for method in dict.fromkeys(r["method"] for r in own):
        found = [r for r in own if r["method"] == method]
        row: dict[str, Any] = {"setting": setting, "method": method, "scenes": len(found)}
        for key in (*SCORES, "seconds_per_mpx", "memory_mb"):
            values = [r[key] for r in found if r[key] is not None]
            row[key] = float(np.mean(values)) if values else None
        row["parameters"] = found[0]["parameters"]
        for key, rivals in (("glp", (BASELINE,)), ("classic", TEXTBOOK)):
            gain = gains(own, method, rivals)
            row[f"over_{key}"], row[f"worst_{key}"] = gain or (None, None)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["PSNR"])


HEADS = ("setting", "method", "scenes", *SCORES, "s/Mpx", "MB", "parameters", "over glp", "worst",
         "over best classic", "worst")  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    def text(value: float | None, decimals: int, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.{decimals}f}"

    parameters = "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
    scores = [text(row[key], places) for key, (places, _) in SCORES.items()]
    won = [text(row[key], 2, "+") for key in ("over_glp", "worst_glp", "over_classic", "worst_classic")]
    cost = [text(row["seconds_per_mpx"], 0), text(row["memory_mb"], 0), parameters]
    return [row["setting"], row["method"], str(row["scenes"]), *scores, *cost, *won]


def markdown(rows: Sequence[dict[str, Any]], facts: dict[str, str]) -> str:
    about = (
        "Means over test sites that nothing was fitted to or chosen by (`benchmarks/sites.toml`), at reduced",
        "resolution: the measured cube is the truth. PSNR in dB with each band's maximum as peak, SAM in degrees,",
        "ERGAS with 100 / ratio; processor time and memory of fit and fusion; gains in PSNR, mean and worst scene,",
        f"over `glp` and over the best published classic of each scene ({', '.join(TEXTBOOK)}).",
        "",
        "Small networks (`-lite`) were trained for a short time on one core, all alike: their cards say how far they",
        "got.",
        "They correct `glp` and use as much of the correction as helps on the scene, so they stay near it.",
        "`docs/leaderboard.html` has the table with sortable columns.",
    )
    known = [f"- {name}: `{value}`" if name == "command" else f"- {name}: {value}" for name, value in facts.items()]
    lines = ["# Leaderboard", "", *about, "", *known, ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join([*lines, ""])


SCRIPT = """
document.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
  const body = document.querySelector('tbody'), rows = [...body.rows], down = head.dataset.down !== 'yes';
  const value = row => { const t = row.cells[column].textContent, n = parseFloat(t); return isNaN(n) ? t : n; };
  const order = (x, y) => typeof x !== typeof y ? (typeof x === 'number' ? -1 : 1) : x < y ? -1 : x > y ? 1 : 0;
  rows.sort((a, b) => order(value(a), value(b)) * (down ? -1 : 1));
  document.querySelectorAll('th').forEach(other => delete other.dataset.down);
  head.dataset.down = down ? 'yes' : 'no';
  rows.forEach(row => body.appendChild(row));
}));
"""
STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2rem; } table { border-collapse: collapse; }
th { cursor: pointer; text-align: left; border-bottom: 2px solid #456; position: sticky; top: 0; background: #fff; }
td, th { padding: .25rem .6rem; white-space: nowrap; }
td:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums; }
tr:nth-child(even) { background: #f2f5f8; }
"""


def page(rows: Sequence[dict[str, Any]], facts: dict[str, str]) -> str:
    """Render the table as a page of its own, whose columns sort when their heads are clicked."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in HEADS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in cells(row)) + "</tr>\n" for row in rows)
    about = "; ".join(f"{name}: {value}" for name, value in facts.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>hsfuse leaderboard</title><style>{STYLE}</style>"
        f"<h1>hsfuse leaderboard</h1><p>{html.escape(about)}</p><p>Click a head to sort by it.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><script>{SCRIPT}</script></html>\n"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HSFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--methods", nargs="*", default=[], help="default: everything that can run")
    parser.add_argument("--settings", nargs="*", default=[], choices=[s.name for s in SETTINGS])
    parser.add_argument("--sites", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true", help="three sites, two settings, without uhntc")
    parser.add_argument(
        "--largest", type=int, default=120, help="largest side of a scene, fine pixels; the middle is used"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="Markdown table; the page is written beside it")
    parser.add_argument("--json", type=Path, help="every score")
    args = parser.parse_args(arguments)
    if args.quick:
        args.settings, args.sites = args.settings or list(QUICK), args.sites or list(QUICK_SITES)
    return args


def wanted(args: argparse.Namespace) -> list[MethodSpecification]:
    specs = [parse_specification(text) for text in args.methods] or all_specifications()
    return [spec for spec in specs if not (args.quick and not args.methods and spec.name == "uhntc")]


def score(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything; a method that does not take a setting is left out with a note."""
    specs, resources = wanted(args), resolved(Resources(threads=args.threads, device="cpu"))
    scenes = scenes_to_score(args.data, args.sites, args.largest)
    records: list[dict[str, Any]] = []
    for setting in SETTINGS:
        if args.settings and setting.name not in args.settings:
            continue
        for site, scene, pan in scenes:
            for spec in specs:
                if spec.network and was_seen(spec.header(), scene):
                    raise SystemExit(f"{spec.label} was trained on {scene.file}: that is no test.")
                try:
                    found = fused(spec, pan if setting.pan else scene, setting, resources)
                except HsfuseError as error:
                    print(f"{setting.name:20s} {site:18s} {spec.label:20s} left out: {error.message}", flush=True)
                    continue
                records.append({"setting": setting.name, "scene": site, "method": spec.label, **found})
                print(f"{setting.name:20s} {site:18s} {spec.label:20s} {found['PSNR']:.2f} dB", flush=True)
            if args.json:
                args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return records


def _typed(words: Sequence[str]) -> list[str]:
    """What was asked for, without where files lie."""
    places = {i + step for i, word in enumerate(words) if word in ("--data", "--output", "--json") for step in (0, 1)}
    return [f'"{word}"' if " " in word else word for i, word in enumerate(words) if i not in places]


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    records = score(args)
    rows = [row for setting in SETTINGS for row in rows_of(records, setting.name)]
    words = sys.argv[1:] if arguments is None else arguments
    facts = {
        "command": "python benchmarks/leaderboard.py " + " ".join(_typed(words)),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": git_commit(),
        "device": f"cpu, {args.threads} thread(s), {platform.machine()}", "torch": torch.__version__,
        "sites": ", ".join(dict.fromkeys(r["scene"] for r in records)),
    }  # fmt: skip
    table = markdown(rows, facts)
    if args.output:
        args.output.write_text(table, encoding="utf-8")
        args.output.with_suffix(".html").write_text(page(rows, facts), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
