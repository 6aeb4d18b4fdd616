"""What a model of a displacement field is, in pixel coordinates: the points it is fitted to, and its interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.threads import PARTS, parallel_map
from hsfuse.grid import Grid
from hsfuse.parallel import parts_of

FloatArray = NDArray[np.float64]

_LATTICE_PX = 8


@dataclass(frozen=True)
class Points:
    """Measured displacements in target pixels.

    Attributes
    ----------
    position
        Shape (point, 2): row and column.
    value
        Shape (point, 2): displacement along rows and columns.
    sigma
        Standard error of one coordinate, shape (point,).
    sharing
        How many points share the information of a pixel (overlapping windows): the variance of an average of points
        is so many times larger than if they were independent.
    spacing
        Distance of neighbouring points in pixels.
    window
        Side of the Hann windows that the points were measured in, in pixels.
    """

    position: FloatArray
    value: FloatArray
    sigma: FloatArray
    sharing: float = 1.0
    spacing: float = 20.0
    window: float = 64.0

    @property
    def size(self) -> int:
        """Number of points."""
        return int(self.sigma.size)

    def take(self, which: NDArray[np.bool_]) -> Points:
        """The points that are marked."""
        return replace(self, position=self.position[which], value=self.value[which], sigma=self.sigma[which])

    def information(self, weight: FloatArray) -> FloatArray:
        """Weight of each point in a least-squares fit whose covariance is meant."""
        return weight / (self.sigma**2 * self.sharing)


class Fitted(Protocol):
    """A fitted field."""

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    def at(self, position: FloatArray) -> FloatArray:
        """Displacement (row, col) at positions, shape (point, 2)."""
        ...

    def influence(self, points: Points, weight: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How the points that were fitted determine the field at positions.

        Returns
        -------
        (influence, prior_variance)
            What each point contributes, shape (position, point): the field is ``influence @ points.value``. And the
            variance (square pixels, of one coordinate, shape (position,)) that the points leave open there.
        """
        ...

    def to_field(self, grid: Grid) -> DisplacementField:
        """The field in map units."""
        ...


class Model(Protocol):
    """Something that can be fitted."""

    def fit(self, points: Points, weight: FloatArray, smoothing: float) -> Fitted:
        """Fit by weighted least squares."""
        ...

    def fits(self, points: Points, weight: FloatArray, smoothings: Sequence[float]) -> Iterator[Fitted]:
        """Fit with several strengths of smoothing; what they share is computed once."""
        ...


def on_pixels(fitted: Fitted, height: int, width: int) -> NDArray[np.float32]:
    """Displacement of all pixels of an image, shape (2, row, col).

    It is computed every eight pixels and interpolated linearly: the field is straight over so short a way.
    """
    rows, cols = np.arange(0, height + _LATTICE_PX, _LATTICE_PX), np.arange(0, width + _LATTICE_PX, _LATTICE_PX)
    knots = np.stack(np.meshgrid(rows.astype(float), cols.astype(float), indexing="ij"), axis=-1).reshape(-1, 2)
    values = fitted.at(knots).T.reshape(2, len(rows), len(cols)).astype(np.float32)
    i, t = np.divmod(np.arange(height), _LATTICE_PX)
    j, s = np.divmod(np.arange(width), _LATTICE_PX)
    along, across = (t / _LATTICE_PX).astype(np.float32)[:, None], (s / _LATTICE_PX).astype(np.float32)
    tall = values[:, i] * (1 - along) + values[:, i + 1] * along
    out = np.empty((2, height, width), np.float32)

    def some(part: slice) -> None:
        left, right = (np.take(tall[:, part], at, axis=2) for at in (j, j + 1))
        right -= left
        right *= across
        np.add(left, right, out=out[:, part])

    list(parallel_map(some, parts_of(height, PARTS)))
    return out
