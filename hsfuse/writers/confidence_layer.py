"""The confidence layer beside a cube, as those who read it need to know it."""

from __future__ import annotations

from pathlib import Path

SOURCES = {0: "no data", 1: "fused", 2: "hyperspectral image only", 3: "fused, alignment extrapolated"}
"""Values of its third band."""
LAYERS = ("change probability", "expected relative error", "source")
"""Its bands."""


def confidence_path(output: Path) -> Path:
    """Name of the confidence layer of an output."""
    stem = output.with_suffix("")
    return stem.with_name(stem.name + ".confidence.tif")
