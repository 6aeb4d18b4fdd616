"""Seams: straight lines at which the displacement jumps.

Granules of different orbits, detector modules and mosaics meet in a line; on one side of it an image lies elsewhere
than on the other. A smooth field cannot jump. It bends within some knots of the line, its windows and boxes on the line
see both sides and measure nothing, and so neither the field nor what is known of its error says how wrong it is there.
A step, fitted to the boxes on both sides, does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hsfuse.coregister.models import FloatArray

_NEAR, _FAR = 0.75, 4.5
"""Distance from the line, in boxes, of those that take part: nearer ones see both sides."""
_BEND = 2.5
"""Distance in boxes within which a smooth field bends."""
_ANGLES, _STRIP = 36, 0.25
_MOST_ELSEWHERE = 0.4
"""A step far from the seam and parallel to it explains at most this share of what one at the seam does: short waves,
such as those of an attitude that jitters, look like a step at every one of their zeros."""
_LEAST_JUMP_PX, _LIKE_THE_WHOLE = 0.2, (0.5, 1.5)
"""A seam jumps by the first at least, and alike in every quarter of its length."""
_RAMPS, _BETTER = (2.0, 3.5), 25.0
"""A cubic, and ramps of these half widths in boxes, leave more squares than a step by so many times the variance of one
coordinate of one box."""
_QUARTERS, _FEWEST_BOXES, _FEWEST_IN_QUARTER = 4, 60, 8


class Line(NamedTuple):
    """A straight line.

    Attributes
    ----------
    normal
        Unit vector (row, col) across the line.
    offset
        Distance of the line from the origin along ``normal``, in pixels.
    side
        Side of the boxes in pixels: the unit of distances from the line.
    """

    normal: FloatArray
    offset: float
    side: float

    def across(self, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Distance from the line and position along it, in boxes."""
        along = np.array([-self.normal[1], self.normal[0]])
        return (position @ self.normal - self.offset) / self.side, position @ along / self.side


@dataclass(frozen=True)
class Seam:
    """A line at which the displacement jumps.

    Attributes
    ----------
    line
        Where it is.
    coefficients
        Displacement (row, col) around the line, in pixels, by 1, distance from the line, position along it, and being
        beyond it; shape (4, 2).
    """

    line: Line
    coefficients: FloatArray

    @property
    def jump_px(self) -> float:
        """Length of the jump."""
        return math.hypot(*self.coefficients[3])

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement that the step says, shape (position, 2)."""
        return np.asarray(_design(*self.line.across(position)) @ self.coefficients)

    def added_variance(self, field: Callable[[FloatArray], FloatArray], lattice: FloatArray) -> float:
        """Variance (square pixels, one coordinate) over the image by which a smooth field is wrong beside the line.

        Parameters
        ----------
        field
            Displacement at positions.
        lattice
            Positions spread evenly over the image, shape (position, 2).
        """
        distance = np.abs(self.line.across(lattice)[0])
        square = ((self.at(lattice) - field(lattice)) ** 2).sum(axis=1) / 2.0
        beside, away = distance < _BEND, (distance >= _BEND) & (distance < _FAR)
        if not beside.any() or not away.any():
            return 0.0
        # Away from the line the field is free to follow what a step does not hold.
        return max(0.0, float(square[beside].mean() - square[away].mean())) * float(beside.mean())


def find_seam(position: FloatArray, value: FloatArray, weight: FloatArray, side: float) -> Seam | None:
    """Find the line at which displacements jump most; None when they jump nowhere.

    Parameters
    ----------
    position
        Centres (row, col) of boxes that tile the image, in pixels, shape (box, 2).
    value
        Their displacement (row, col) in pixels, shape (box, 2).
    weight
        Their weight, shape (box,); 0 for those that measured nothing, or nothing that agrees with those around them.
    side
        Side of the boxes in pixels.
    """
    used = weight > 0.0
    position, value, weight = position[used], value[used], weight[used]
    if len(position) < _FEWEST_BOXES:
        return None
    coarse = _best(position, value, weight, side, [math.pi * k / _ANGLES for k in range(_ANGLES)])
    best = _best(position, value, weight, side, [coarse.angle + math.radians(d) for d in range(-5, 6)])
    if best.others > _MOST_ELSEWHERE * best.gain:
        return None
    return _judged(position, value, weight, Line(_normal(best.angle), best.offset * side, side))


@dataclass(frozen=True)
class _Candidate:
    """A line, by how many squares a step there explains, and the most that a parallel far away explains."""

    gain: float
    others: float
    angle: float
    offset: float


def _best(
    position: FloatArray, value: FloatArray, weight: FloatArray, side: float, angles: Sequence[float]
) -> _Candidate:
    """Line of one of some directions at which a step explains most."""
    best = _Candidate(0.0, math.inf, 0.0, 0.0)
    for angle in angles:
        offset, gain = _gains(position @ _normal(angle) / side, value, weight)
        if gain.size and gain.max() > best.gain:
            at = float(offset[int(gain.argmax())])
            away = gain[np.abs(offset - at) > _FAR]
            best = _Candidate(float(gain.max()), float(away.max()) if away.size else 0.0, angle, at)
    return best


def _gains(across: FloatArray, value: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Squares that a step at each offset (in boxes) explains beyond a straight line, from sums over narrow strips."""
    first = across.min()
    strip = np.floor((across - first) / _STRIP).astype(int)
    reach = round(_FAR / _STRIP)
    count = int(strip.max()) + 1
    if count < 2 * reach:
        return np.zeros(0), np.zeros(0)
    parts = [weight, *(weight * v for v in value.T)]
    total = np.stack([np.bincount(strip, part, count) for part in parts])
    distance = (np.arange(-reach, reach) + 0.5) * _STRIP
    total = np.lib.stride_tricks.sliding_window_view(total, 2 * reach, axis=1) * (np.abs(distance) > _NEAR)
    design = np.stack([np.ones_like(distance), distance, (distance > 0).astype(np.float64)])
    gram = np.einsum("id,jd,od->oij", design, design, total[0])
    right = np.einsum("id,vod->oiv", design, total[1:])
    enough = np.minimum(total[0][:, :reach].sum(axis=1), total[0][:, reach:].sum(axis=1)) > 0.2 * total[0].sum(axis=1)
    explained = [_explained(gram[:, :n, :n], right[:, :n]) for n in (2, 3)]
    offset = first + (np.arange(total.shape[1]) + reach) * _STRIP
    return offset, np.where(enough, explained[1] - explained[0], 0.0)


def _explained(gram: FloatArray, right: FloatArray) -> FloatArray:
    """Squares that least squares explain, of normal equations one by one."""
    size = gram.shape[-1]
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-12
    return np.asarray((np.linalg.solve(gram + ridge * np.eye(size), right) * right).sum(axis=(1, 2)))


def _judged(position: FloatArray, value: FloatArray, weight: FloatArray, line: Line) -> Seam | None:
    """Fit a step at a line and decide whether it is one."""
    distance, along = line.across(position)
    take = (np.abs(distance) > _NEAR) & (np.abs(distance) < _FAR)
    distance, along, value, weight = distance[take], along[take], value[take], weight[take]
    step, left = _fit(_design(distance, along), value, weight)
    smooth = [[distance**2, distance**3], *([np.clip(distance / wide, -1.0, 1.0)] for wide in _RAMPS)]
    plane = [np.ones_like(distance), distance, along]
    others = min(_fit(np.stack([*plane, *shape], axis=1), value, weight)[1] for shape in smooth)
    if others - left < _BETTER * left / value.size:
        return None
    jump = step[3]
    size = math.hypot(*jump)
    if size < _LEAST_JUMP_PX:
        return None
    low, high = along.min(), along.max()
    quarter = np.minimum((along - low) / max(high - low, 1e-9) * _QUARTERS, _QUARTERS - 1).astype(int)
    for number in range(_QUARTERS):
        own = quarter == number
        sides = [int((own & ((distance > 0) == beyond)).sum()) for beyond in (False, True)]
        if min(sides) < _FEWEST_IN_QUARTER:
            return None
        part = _fit(_design(distance[own], along[own]), value[own], weight[own])[0][3]
        if not _LIKE_THE_WHOLE[0] < float(part @ jump) / size**2 < _LIKE_THE_WHOLE[1]:
            return None
    return Seam(line, step)


def _fit(design: FloatArray, value: FloatArray, weight: FloatArray) -> tuple[FloatArray, float]:
    """Weighted least squares: coefficients, and the weighted squares that are left."""
    gram = design.T @ (weight[:, None] * design)
    right = design.T @ (weight[:, None] * value)
    solved = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(len(gram)), right)
    return solved, float((weight[:, None] * (value - design @ solved) ** 2).sum())


def _design(distance: FloatArray, along: FloatArray) -> FloatArray:
    return np.stack([np.ones_like(distance), distance, along, (distance > 0).astype(np.float64)], axis=1)


def _normal(angle: float) -> FloatArray:
    return np.array([math.cos(angle), math.sin(angle)])
