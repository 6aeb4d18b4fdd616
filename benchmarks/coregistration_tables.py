"""Tables of the co-registration benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_HEAD = (
    "| scene | ours, m | stated, m | verdict | ours, s | ours, MB | AROSICS global, m | local 64 / 128 / 256, m"
    " | best local, m | s | MB | ours / best |"
)


def _metres(run: Json | None) -> str:
    if run is None:
        return "-"
    return f"{run['rmse_m']:.2f}" if "rmse_m" in run else "fails"


def best_local(runs: Sequence[Json]) -> Json | None:
    """The run of AROSICS with tie points that has the smallest error, None when all failed."""
    local = [run for run in runs if run["window"] and "rmse_m" in run]
    return min(local, key=lambda run: run["rmse_m"]) if local else None


def _row(row: Json) -> str:
    ours, runs = row["ours"], row["arosics"]
    cells = [f"{row['scene']} ({row['size']} px)"]
    holdout = ours.get("holdout_m")
    known = "rmse_m" in ours
    cells += [_metres(ours) if known else "-", f"{holdout:.2f}" if holdout is not None else "-", ours["verdict"]]
    cells += [f"{ours['seconds']:.1f}", f"{ours['peak_mb']:.0f}"]
    if not runs:
        return "| " + " | ".join([*cells, *["-"] * 6]) + " |"
    first = [run for run in runs if not run["masked"] and run["band"] == runs[0]["band"]]
    cells.append(_metres(first[0]))
    cells.append(" / ".join(_metres(run) for run in first[1:]))
    best = best_local(runs)
    if best is None:
        return "| " + " | ".join([*cells, "fails", "-", "-", "-"]) + " |"
    how = "masked" if best["masked"] else f"band {best['band']}"
    cells += [f"{best['rmse_m']:.2f} ({best['window']} px, {how})", f"{best['seconds']:.0f}", f"{best['peak_mb']:.0f}"]
    cells.append(f"{ours['rmse_m'] / best['rmse_m']:.2f}" if known else "-")
    return "| " + " | ".join(cells) + " |"


def markdown(rows: Sequence[Json]) -> str:
    """The table of all scenes."""
    return "\n".join([_HEAD, "|---" * 12 + "|", *(_row(row) for row in rows)])
