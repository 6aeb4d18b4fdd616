"""The part of a displacement field that a spline's local bends are added to.

A pushbroom camera draws an image line by line: an error of its attitude is the same along a line, and an error of its
optics the same along the track. Such distortions are sums of a function of the way along the track and a function of
the way across it, also where nothing can be seen: land in the same lines tells what they are over the sea. The
direction of the track in a map grid differs from scene to scene and is found from the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.field import cubic_bspline

FloatArray = NDArray[np.float64]

MU = 3e-2
"""Pull of a spline towards zero, relative to the penalty on roughness: it dies out over some three knots."""
_USUAL_SLOPE = 1e-3
"""Usual size of an affine field's slopes (rotation by 0.06 degrees), known before any point is seen."""
_BEYOND_KNOTS = 4.0
"""How far the functions reach beyond the image, in knots."""


class Trend(Protocol):
    """Functions of the position, of which the first three are 1, row and column, scaled to the image."""

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    def design(self, position: FloatArray) -> FloatArray:
        """Functions at positions (row, col), shape (point, function)."""
        ...

    def precision(self) -> FloatArray:
        """What is known of the coefficients before any point is seen, as the inverse of a covariance."""
        ...


def usual_plane(height: int, width: int) -> FloatArray:
    """Precision of an affine field: any shift, slopes of the usual size."""
    return np.diag([1e-9, *((_USUAL_SLOPE * size / 2.0) ** -2.0 for size in (height, width))])


@dataclass(frozen=True)
class Track:
    """An affine field, a function of the way along a direction, and one of the way across it.

    Attributes
    ----------
    height, width
        Image shape in pixels.
    spacing
        Distance of the functions' knots in pixels.
    angle
        Direction, counted from the rows' axis towards the columns', in radians.
    smoothing
        Weight of the penalty on the functions' roughness.
    """

    height: int
    width: int
    spacing: float
    angle: float
    smoothing: float

    @property
    def name(self) -> str:
        """Name for reports."""
        return "track"

    @cached_property
    def _axes(self) -> tuple[tuple[float, float, float, int], ...]:
        """Direction (row, col), position of the first inner knot and number of knots of both functions."""
        out = []
        for angle in (self.angle, self.angle + np.pi / 2.0):
            down, across = float(np.cos(angle)), float(np.sin(angle))
            half = (abs(down) * self.height + abs(across) * self.width) / 2.0 + _BEYOND_KNOTS * self.spacing
            out.append((down, across, -half, int(np.ceil(2.0 * half / self.spacing)) + 3))
        return tuple(out)

    def design(self, position: FloatArray) -> FloatArray:
        """Functions at positions."""
        u, v = (position[:, i] - size / 2.0 for i, size in enumerate((self.height, self.width)))
        plane = np.stack([np.ones(len(position)), 2.0 * u / self.height, 2.0 * v / self.width], axis=1)
        return np.hstack([plane, *(_basis((d * u + a * v - t) / self.spacing + 1.0, n) for d, a, t, n in self._axes)])

    def precision(self) -> FloatArray:
        """Precision of the coefficients."""
        blocks = [usual_plane(self.height, self.width)]
        for *_, count in self._axes:
            blocks.append(self.smoothing * _bending(count))
        return np.asarray(scipy.linalg.block_diag(*blocks), dtype=np.float64)


@cache
def _bending(count: int) -> FloatArray:
    """Penalty on a function's roughness, and its pull towards zero; not to be changed."""
    bend = difference(count, 3)
    return np.asarray((bend.T @ bend).toarray() + MU * np.eye(count), dtype=np.float64)


def _basis(at: FloatArray, count: int) -> FloatArray:
    """Values of ``count`` B-splines at positions in units of their spacing, shape (position, spline)."""
    inside = np.clip(at, 1.0, count - 2.0 - 1e-9)
    first = np.floor(inside).astype(np.int64)
    out = np.zeros((at.size, count))
    np.put_along_axis(out, first[:, None] + np.arange(-1, 3), cubic_bspline(inside - first).T, axis=1)
    return out


def difference(size: int, order: int) -> scipy.sparse.csr_array:
    """Matrix of the differences of ``order`` of ``size`` values."""
    steps = {1: (-1.0, 1.0), 2: (1.0, -2.0, 1.0), 3: (-1.0, 3.0, -3.0, 1.0)}[order]
    return scipy.sparse.diags_array(list(steps), offsets=list(range(order + 1)), shape=(size - order, size)).tocsr()


def interpolating(values: FloatArray) -> FloatArray:
    """Coefficients of the cubic B-splines that take given values at their knots, along the first axis.

    At the ends, where a neighbour is missing, they are only near; the difference falls by four from knot to knot.
    """
    bands = np.full((3, len(values)), 1.0 / 6.0)
    bands[1] = 2.0 / 3.0
    bands[1, [0, -1]] = 5.0 / 6.0
    flat = scipy.linalg.solve_banded((1, 1), bands, values.reshape(len(values), -1), check_finite=False)
    return np.asarray(flat, dtype=np.float64).reshape(values.shape)
