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
| SSRNET | 25.37 | 2.88 | 7.45 | 0.983 | 0.046 |
| MIMO-SST | 28.78 | 2.89 | 3.96 | 0.968 | 0.039 |
| SSRFN | 29.86 | 2.53 | 3.88 | 0.988 | 0.032 |"""

_PAVIA = """| GSA | 12.93 | 15.61 | 14.72 | 0.934 | 0.188 |
| GLP | 25.69 | 4.40 | 33.21 | 0.976 | 0.097 |
| CNMF | 26.78 | 4.82 | 11.25 | 0.983 | 0.043 |
| SSRNET | 15.28 | 10.36 | 12.30 | 0.968 | 0.138 |
| MIMO-SST | 26.97 | 7.12 | 5.99 | 0.985 | 0.039 |
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
    for ratio, setting in dict.fromkeys((r["ratio"], r["setting"]) for r in records):
        chosen = [r for r in records if (r["ratio"], r["setting"]) == (ratio, setting)]
        lines += ["", f"## Ratio {ratio}, {setting}: mean of {len(scenes)} scenes", ""]
        lines += _means(chosen, methods)
        lines += ["", f"PSNR (dB) by scene, ratio {ratio}, {setting}:", ""]
        lines += _by_scene(chosen, methods, scenes)
        lines += _against_classics(chosen, methods, scenes)
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
        cells = [f"**{v:.2f}**" if v == best[scene] else f"{v:.2f}" for scene, v in values.items()]
        lines.append(_row([method, *cells]))
    return lines


def _against_classics(records: Sequence[Record], methods: Sequence[str], scenes: Sequence[str]) -> list[str]:
    classics = [m for m in methods if any(r["method"] == m and r["classic"] for r in records)]
    networks = [m for m in methods if m not in classics]
    if not networks or not classics:
        return []
    lines = ["", "Against each scene's best classic:", ""]
    lines += [_row(["network", "mean gain, dB", "worst scene, dB", "SAM, times"]), "|---|---|---|---|"]
    for network in networks:
        gains, angles = [], []
        for scene in scenes:
            best = max(classics, key=lambda m: _psnr(records, m, scene))
            gains.append(_psnr(records, network, scene) - _psnr(records, best, scene))
            sharpest = min(_psnr(records, m, scene, "SAM") for m in classics)
            angles.append(_psnr(records, network, scene, "SAM") / sharpest)
        lines.append(_row([network, f"{np.mean(gains):+.2f}", f"{min(gains):+.2f}", f"{np.mean(angles):.2f}"]))
    return lines
