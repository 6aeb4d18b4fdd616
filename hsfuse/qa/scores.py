"""How numbers of a report are printed and explained: those of metrics, and those that are no metric of a cube."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hsfuse.metrics import MetricText, all_metrics


@dataclass(frozen=True)
class ScoreText(MetricText):
    """Text of a number, and which way it is better.

    Attributes
    ----------
    direction
        1 where higher is better, -1 where lower is, 0 where neither.
    """

    direction: Literal[-1, 0, 1] = 0


RUN_FACTS: Mapping[str, ScoreText] = {
    "pure_pixel_sam_deg": ScoreText(
        "Pure-pixel spectra, median angle",
        "Median spectral angle between HSI pixels and the mean of the fused pixels inside them, over the even surfaces "
        "shown below (without water, whose angle is mostly noise, and pixels of low purity).",
        "lower, ideal 0",
        "°",
        2,
        -1,
    ),
    "seam_ratio": ScoreText(
        "Seams", "Step across tile borders over the step beside them.", "1 = borders cannot be seen"
    ),
    "coverage": ScoreText("Valid share", "Share of the output that holds data.", "higher", direction=1),
    "seconds": ScoreText("Time", "Wall time of the method.", "lower", " s", 1, -1),
    "memory_mb": ScoreText("Memory", "Growth of the process while the method ran, at its peak.", "lower", " MB", 0, -1),
    "vram_mb": ScoreText("GPU memory", "Peak memory of the method on the GPU.", "lower", " MB", 0, -1),
}
"""Numbers of a run or of its product as a whole."""


def score_text(key: str) -> ScoreText:
    """Return how a number is printed; an unknown one as it is (``PSNR``, ``psnr`` and ``psnr_db`` are one)."""
    if key in RUN_FACTS:
        return RUN_FACTS[key]
    plain = key.lower()
    names = (plain, plain.removesuffix("_db"), plain.removesuffix("_deg"))
    known = {metric.key.lower(): metric for metric in all_metrics()}
    metric = next((known[name] for name in names if name in known), None)
    if metric is None:
        return ScoreText(key, "", decimals=4)
    text = metric.text
    return ScoreText(text.label, text.meaning, text.better, text.unit, text.decimals, metric.direction)
