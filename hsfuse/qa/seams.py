"""Seams: whether tile borders are visible in the fused cube.

At a seam one tile continues its neighbour with a small step that keeps its sign along the border; natural edges
come in any direction and noise in any sign. So the border is cut into short segments, the median step of each
segment (beyond what the slope on both sides explains) is taken, and its typical size across the border is divided
by the same number beside the border: 1 means that nobody can tell where the border was. The comparison is made at
whole hyperspectral pixels from the border, because interpolation makes steps inside and between those pixels
differ everywhere, seam or no seam. A seam that blending has spread over a wide overlap is no step any more and is
not seen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D

SEGMENT_PX = 24
"""Length of the pieces of a border whose median step is taken."""
MIN_SEGMENTS = 8
"""A border with fewer valid segments is not judged. Bands see the same edges of the ground: they do not count anew."""
USUAL_RATIO = 1.25
"""Ratio up to which a border is not told from its surroundings."""
_BEYOND_CHANCE = 3.0
"""Standard deviations above half of the segments, from which it is no chance that so many step at the border."""
CHUNK_PX = 40 * SEGMENT_PX
"""A border is read in pieces of this length, so that memory does not follow the scene."""

Axis = Literal["row", "col"]


@dataclass(frozen=True)
class SeamLine:
    """One tile border.

    Attributes
    ----------
    axis
        ``row`` for a horizontal border (above row ``position``), ``col`` for a vertical one.
    position
        Index of the first pixel behind the border.
    ratio
        Typical step across the border over the typical step beside it; NaN where too few pixels are valid.
    """

    axis: Axis
    position: int
    ratio: float


@dataclass(frozen=True)
class SeamReport:
    """All tile borders of a cube.

    Attributes
    ----------
    lines
        One entry per border.
    profile
        Typical step by distance from the border, relative to its mean beside the border; the middle is the border
        itself, shape (2 * reach + 1,).
    ratio
        Step across all borders together over the step beside them; NaN when no border has enough valid pixels.
    worst
        Largest ratio of a border.
    significant
        Whether the borders stand out of chance (sign test): in clearly more than half of the segments the step across
        them is larger than is usual beside them.
    """

    lines: tuple[SeamLine, ...]
    profile: NDArray[np.float64]
    ratio: float
    worst: float
    significant: bool

    @property
    def score(self) -> float | None:
        """The ratio to judge; None where too little of the borders is clear to tell a seam from steps of the ground."""
        plain = self.ratio <= USUAL_RATIO  # not where it is NaN
        return self.ratio if plain or (self.significant and math.isfinite(self.ratio)) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "ratio": self.ratio,
            "worst": self.worst,
            "significant": self.significant,
            "profile": [float(v) for v in self.profile],
            "lines": [vars(line) for line in self.lines],
        }


def measure_seams(
    read_block: Callable[[Slice2D], NDArray[Any]],
    shape: tuple[int, int],
    row_borders: Sequence[int],
    col_borders: Sequence[int],
    *,
    ratio: int,
) -> SeamReport:
    """Measure the step across every tile border.

    Parameters
    ----------
    read_block
        Reads a block of the fused cube at full resolution, shape (band, row, col), NaN where there is no data; a
        handful of bands is enough.
    shape
        (rows, cols) of the cube.
    row_borders, col_borders
        First row or column behind each border; borders too near the edge of the cube are passed over.
    ratio
        Pixel size ratio of the fusion (1 for an image that was not fused).

    Returns
    -------
    SeamReport
    """
    reach = max(8, 4 * ratio)
    offset = np.arange(-reach, reach + 1)
    beside = (np.abs(offset) >= 2) & (offset % ratio == 0)
    jobs: list[tuple[Axis, int]] = [("row", p) for p in row_borders] + [("col", p) for p in col_borders]
    lines: list[SeamLine] = []
    everything: list[NDArray[np.float64]] = []
    for axis, position in jobs:
        length, along = (shape[0], shape[1]) if axis == "row" else (shape[1], shape[0])
        # One more pixel on each side than steps are wanted, for the slopes.
        first, last = position - reach - 2, position + reach + 2
        if first < 0 or last > length:
            continue
        pieces = []
        for start in range(0, along, CHUNK_PX):
            stop = min(start + CHUNK_PX, along)
            block = Slice2D(first, last, start, stop) if axis == "row" else Slice2D(start, stop, first, last)
            cube = np.asarray(read_block(block), dtype=np.float64)
            pieces.append(_segment_steps(cube if axis == "row" else cube.swapaxes(1, 2)))
        steps = np.concatenate(pieces, axis=2)
        everything.append(steps)
        lines.append(SeamLine(axis, position, _summary(steps, beside)[1]))
    steps = np.concatenate(everything, axis=2) if everything else np.zeros((offset.size, 1, 0))
    profile, together = _summary(steps, beside)
    worst = max((line.ratio for line in lines if not np.isnan(line.ratio)), default=float("nan"))
    return SeamReport(tuple(lines), profile, together, worst, _stands_out(steps, beside))


def _segment_steps(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of the median step of each segment.

    ``cube`` has shape (band, across, along); the result has shape (across - 3, band, segment), because a step needs
    two pixels on each side; NaN where a segment has too few valid pixels.
    """
    step = np.diff(cube, axis=1)
    bent = step[:, 1:-1] - 0.5 * (step[:, :-2] + step[:, 2:])
    whole = bent.shape[2] // SEGMENT_PX * SEGMENT_PX
    pieces = bent[:, :, :whole].reshape(*bent.shape[:2], -1, SEGMENT_PX)
    enough = np.isfinite(pieces).sum(axis=-1) >= SEGMENT_PX * 2 // 3
    size = np.full(enough.shape, np.nan)
    size[enough] = np.abs(np.nanmedian(pieces[enough], axis=-1))
    return size.swapaxes(0, 1)


def _summary(steps: NDArray[np.float64], beside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Profile and ratio of some segments; NaN where there are too few.

    The median over the segments is taken, so that a road or field edge that happens to run along a border for a
    while does not count as a seam.
    """
    whole = np.isfinite(steps).all(axis=0)
    if whole.any(axis=0).sum() < MIN_SEGMENTS:
        return np.full(beside.size, np.nan), float("nan")
    typical = np.median(steps[:, whole], axis=1)
    border, usual = float(typical[typical.size // 2]), float(typical[beside].mean())
    if usual == 0.0:
        # Constant ground: any step at all is a seam.
        return np.ones(beside.size), 1.0 if border == 0.0 else float("inf")
    return typical / usual, border / usual


def _stands_out(steps: NDArray[np.float64], beside: NDArray[np.bool_]) -> bool:
    """Whether more segments than chance explains step more across the border than beside it (sign test)."""
    each = steps.mean(axis=1)
    each = each[:, np.isfinite(each).all(axis=0)]
    count = each.shape[1]
    larger = int((each[beside.size // 2] > np.median(each[beside], axis=0)).sum())
    return bool(larger - 0.5 * count > _BEYOND_CHANCE * 0.5 * math.sqrt(count))
