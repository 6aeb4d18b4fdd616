"""The leaderboard's rows, its table and its page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

TEXTBOOK = ("bicubic", "gsa", "glp:adaptive=false", "cnmf", "nlstf")
"""Published classics: a network is held against the best of them on every scene."""
BASELINE = "glp"
SCORES = {"PSNR": (2, 1), "SAM": (2, -1), "ERGAS": (2, -1), "Q2n": (4, 1), "SSIM": (4, 1)}
"""Decimals, and whether more is better."""


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


def markdown(rows: Sequence[dict[str, Any]], facts: dict[str, str], left_out: Sequence[str] = ()) -> str:
    about = (
        "Means over test sites that nothing was fitted to or chosen by (`benchmarks/sites.toml`), at reduced",
        "resolution: the measured cube is the truth. PSNR in dB with each band's maximum as peak, SAM in degrees,",
        "ERGAS with 100 / ratio; processor time and memory of fit and fusion; gains in PSNR, mean and worst scene,",
        f"over `glp` and over the best published classic of each scene ({', '.join(TEXTBOOK)}).",
        "",
        "`ssrfn` and `ssrfn-lite` weigh experts of the scene behind `glp` and its step. Other trained networks correct",
        "`glp` and use as much of the correction as helps on the scene; where a scene is too small to test that on,",
        "they stay at `glp`. Those small ones (`-lite`) were trained alike, for minutes on a core: their cards say how",
        "far they got. Seconds per megapixel come from crops of a hundredth of one, so that what a method does once",
        "for a scene weighs more than on a whole product; a busy machine makes them longer. The setting *other bands*",
        "holds the sites whose cubes end near 1 um: networks of fixed bands do not take them. Methods of fewer scenes",
        "compare by their gains, not by their means.",
        "`docs/leaderboard.html` sorts by any column.",
    )
    known = [f"- {name}: `{value}`" if name == "command" else f"- {name}: {value}" for name, value in facts.items()]
    lines = ["# Leaderboard", "", *about, "", *known, ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    if left_out:
        lines += ["", "## Left out, with the number of scenes", "", *(f"- {text}" for text in left_out)]
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
