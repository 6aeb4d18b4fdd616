"""Tables of the quality benchmark in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]

SCORES = {
    "PSNR": 2, "SAM": 2, "ERGAS": 2, "CC": 4, "RMSE": 4, "PSNR_global": 2, "SSIM": 4, "Q2n": 4, "seconds": 2,
}  # fmt: skip
"""Scores and their decimals; the first five are the ones of the SSRFN paper, in its spelling."""

_PAPER = """
The authors of SSRFN report for {scene} (their own protocol: ratio 4, SPOT-4 responses, one 512 x 512 crop; not
comparable like for like, see docs/methods.md):

| method | PSNR | SAM | ERGAS | CC | RMSE |
|---|---|---|---|---|---|
{rows}
"""

_CHIKUSEI = """| GSA | 18.55 | 8.77 | 11.23 | 0.904 | 0.103 |
| GLP | 18.53 | 13.27 | 10.48 | 0.871 | 0.089 |
| CNMF | 21.37 | 5.11 | 8.02 | 0.977 | 0.081 |
| NLSTF | 19.95 | 7.15 | 9.56 | 0.988 | 0.088 |
| SSRNET | 25.37 | 2.88 | 7.45 | 0.983 | 0.046 |
| MSST-Net | 22.66 | 4.48 | 7.06 | 0.968 | 0.062 |
| UHNTC | 25.76 | 2.56 | 4.22 | 0.985 | 0.062 |
| MIMO-SST | 28.78 | 2.89 | 3.96 | 0.968 | 0.039 |
| FMamba | 27.61 | 3.11 | 4.72 | 0.953 | 0.041 |
| QIS-GAN | 28.13 | 2.93 | 4.38 | 0.977 | 0.037 |
| SSRFN | 29.86 | 2.53 | 3.88 | 0.988 | 0.032 |"""

_PAVIA = """| GSA | 12.93 | 15.61 | 14.72 | 0.934 | 0.188 |
| GLP | 25.69 | 4.40 | 33.21 | 0.976 | 0.097 |
| CNMF | 26.78 | 4.82 | 11.25 | 0.983 | 0.043 |
| NLSTF | 13.70 | 15.38 | 13.88 | 0.921 | 0.191 |
| SSRNET | 15.28 | 10.36 | 12.30 | 0.968 | 0.138 |
| MSST-Net | 25.01 | 7.09 | 6.81 | 0.983 | 0.050 |
| UHNTC | 27.80 | 4.90 | 7.08 | 0.989 | 0.036 |
| MIMO-SST | 26.97 | 7.12 | 5.99 | 0.985 | 0.039 |
| FMamba | 28.67 | 4.75 | 6.60 | 0.089 (sic) | 0.033 |
| QIS-GAN | 28.23 | 5.32 | 6.97 | 0.983 | 0.037 |
| SSRFN | 30.71 | 3.07 | 4.59 | 0.992 | 0.028 |"""

PAPER_TABLES = {
    "chikusei": _PAPER.format(scene="Chikusei", rows=_CHIKUSEI),
    "pavia": _PAPER.format(scene="Pavia Centre", rows=_PAVIA),
}
"""Printed beside the results when the user brings these scenes."""


def markdown(records: Sequence[Record], facts: Mapping[str, str]) -> str:
    """Render means over the scenes, PSNR by scene, and networks against each scene's best classic."""
    lines = ["# Quality at reduced resolution", ""]
    lines += [f"- {name}: `{value}`" if name == "command" else f"- {name}: {value}" for name, value in facts.items()]
    methods = list(dict.fromkeys(r["method"] for r in records))
    scenes = list(dict.fromkeys(r["scene"] for r in records))
    lines += _gains(records, methods)
    for ratio, setting in dict.fromkeys((r["ratio"], r["setting"]) for r in records):
        chosen = [r for r in records if (r["ratio"], r["setting"]) == (ratio, setting)]
        lines += ["", f"## Ratio {ratio}, {setting}: mean of {len(scenes)} scenes", ""]
        lines += _means(chosen, methods)
        lines += ["", f"PSNR (dB) by scene, ratio {ratio}, {setting}:", ""]
        lines += _by_scene(chosen, methods, scenes)
    if any(r.get("seen") for r in records):
        lines += ["", "† The network was trained on this scene: it does not count in the gains."]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _means(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    lines = [_row(["method", *SCORES]), "|---" * (len(SCORES) + 1) + "|"]
    for method in methods:
        own = [r for r in records if r["method"] == method]
        cells = []
        for score, decimals in SCORES.items():
            values = [r[score] for r in own if r[score] is not None]
            cells.append(f"{np.mean(values):.{decimals}f}" if values else "-")
        lines.append(_row([method, *cells]))
    return lines


def _psnr(records: Sequence[Record], method: str, scene: str, score: str = "PSNR") -> float:
    found = [r[score] for r in records if r["method"] == method and r["scene"] == scene]
    return float(found[0]) if found and found[0] is not None else float("nan")


def _by_scene(records: Sequence[Record], methods: Sequence[str], scenes: Sequence[str]) -> list[str]:
    lines = [_row(["method", *scenes]), "|---" * (len(scenes) + 1) + "|"]
    best = {scene: np.nanmax([_psnr(records, method, scene) for method in methods]) for scene in scenes}
    for method in methods:
        values = {scene: _psnr(records, method, scene) for scene in scenes}
        seen = {r["scene"] for r in records if r["method"] == method and r.get("seen")}
        cells = []
        for scene, value in values.items():
            text = "-" if np.isnan(value) else f"**{value:.2f}**" if value == best[scene] else f"{value:.2f}"
            cells.append(text + ("†" if scene in seen else ""))
        lines.append(_row([method, *cells]))
    return lines


TEXTBOOK = ("bicubic", "gsa", "glp:adaptive=false", "cnmf")
ADAPTIVE = ("glp",)
READINGS = {"best textbook classic": TEXTBOOK, "adaptive GLP": ADAPTIVE}
"""What a network is held against: the best published classic of each scene, or our own default."""


def gains(records: Sequence[Record], network: str, rivals: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Scene -> gain in PSNR (dB) over the best rival, and SAM as a share of the rivals' smallest.

    Scenes that the network was trained on, or that no rival was run on, are left out.
    """
    found = {}
    for record in records:
        if record["method"] != network or record.get("seen"):
            continue
        scene = record["scene"]
        others = [r for r in records if r["scene"] == scene and r["method"] in rivals]
        if others:
            best, sharpest = max(r["PSNR"] for r in others), min(r["SAM"] for r in others)
            found[scene] = record["PSNR"] - best, record["SAM"] / sharpest
    return found


def _gains(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """Networks against each scene's best classic, both readings, for every ratio and setting."""
    networks = [m for m in methods if any(r["method"] == m and not r["classic"] for r in records)]
    lines: list[str] = []
    for title, rivals in READINGS.items():
        rows = []
        for ratio, setting in dict.fromkeys((r["ratio"], r["setting"]) for r in records):
            chosen = [r for r in records if (r["ratio"], r["setting"]) == (ratio, setting)]
            for network in networks:
                own = gains(chosen, network, rivals)
                if not own:
                    continue
                db, angle = (np.array([v[i] for v in own.values()]) for i in (0, 1))
                worst = min(own, key=lambda scene: own[scene][0])
                rows.append(
                    _row([str(ratio), setting, network, str(len(own)), f"{db.mean():+.2f}",
                          f"{db.min():+.2f} ({worst})", f"{angle.mean():.2f}", f"{angle.max():.2f}"])
                )  # fmt: skip
        if rows:
            tried = [m for m in rivals if m in methods]
            lines += ["", f"## Gain over the {title} of each scene", ""]
            lines += [f"Scenes that a network was not trained on; rivals: {', '.join(tried)}.", ""]
            lines += [_row(["ratio", "setting", "network", "scenes", "mean gain, dB", "worst scene, dB",
                            "SAM, times (mean)", "SAM, times (worst)"]), "|---" * 8 + "|", *rows]  # fmt: skip
    return lines
