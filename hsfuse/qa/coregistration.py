"""What a report says about a co-registration: points, the field over the scene, and where it is extrapolated.

Every number that text, tables and figures repeat is computed here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult, TiePoints
from hsfuse.grid import Bounds

FloatArray = NDArray[np.float64]

SUPPORT_SPACINGS = 3.0
"""A position is extrapolated where no used tie point lies within so many typical distances between tie points."""


@dataclass(frozen=True)
class PointSet:
    """Points with a measured displacement.

    Attributes
    ----------
    x, y
        Map coordinates (metres).
    dx_m, dy_m
        Measured displacement to be added to the claimed position, east and north.
    field_dx_m, field_dy_m
        What the fitted field says there.
    """

    x: FloatArray
    y: FloatArray
    dx_m: FloatArray
    dy_m: FloatArray
    field_dx_m: FloatArray
    field_dy_m: FloatArray

    @classmethod
    def of(cls, points: TiePoints, field: DisplacementField, chosen: NDArray[np.bool_] | None = None) -> PointSet:
        """Take some points (all by default) of a co-registration result."""
        take = np.ones(points.size, dtype=bool) if chosen is None else chosen
        x, y = points.x[take], points.y[take]
        field_dx, field_dy = field.at(x, y)
        return cls(x, y, points.dx_m[take], points.dy_m[take], field_dx, field_dy)

    @property
    def residual_m(self) -> FloatArray:
        """Length of what the field does not explain."""
        return np.hypot(self.dx_m - self.field_dx_m, self.dy_m - self.field_dy_m)

    def __len__(self) -> int:
        return int(self.x.size)


@dataclass(frozen=True)
class CoregistrationDiagnostics:
    """A co-registration result with its field sampled over the scene.

    Attributes
    ----------
    result
        What the co-registration found.
    used, rejected, check
        Tie points that carry the field, those thrown out, and those held back to test it.
    x, y
        Map coordinates of a regular sample of the scene, shape (row, col); empty without points.
    dx_m, dy_m
        The field there.
    supported
        Where the field rests on tie points nearby; False where it is extrapolated.
    """

    result: CoregistrationResult
    used: PointSet
    rejected: PointSet
    check: PointSet
    x: FloatArray
    y: FloatArray
    dx_m: FloatArray
    dy_m: FloatArray
    supported: NDArray[np.bool_]

    @property
    def has_points(self) -> bool:
        """False when nothing was measured (``off``, or rejected before the matching)."""
        return len(self.used) + len(self.rejected) + len(self.check) > 0

    @property
    def applied(self) -> bool:
        """Whether the image was moved."""
        return self.result.verdict in ("accepted", "global only")

    @property
    def shift_m(self) -> tuple[float, float] | None:
        """(east, north) median of the field over the scene; None where nothing was applied."""
        if not (self.applied and self.dx_m.size):
            return None
        return float(np.median(self.dx_m)), float(np.median(self.dy_m))

    @property
    def extrapolated_share(self) -> float | None:
        """Share of the scene where the field is extrapolated, 0 to 1; None for one shift and without a field."""
        if not (self.applied and self.supported.size) or self.result.field.is_constant:
            return None
        return float(1.0 - self.supported.mean())

    def to_json(self) -> dict[str, Any]:
        """Return the result and what was derived from it as plain values."""
        return self.result.to_json() | {"shift_m": self.shift_m, "extrapolated_share": self.extrapolated_share}


def diagnose(
    result: CoregistrationResult, bounds: Bounds | None = None, *, samples: int = 120
) -> CoregistrationDiagnostics:
    """Sample the field over the scene and sort the points.

    Parameters
    ----------
    result
        Co-registration result.
    bounds
        Extent of the scene in the points' reference system; default: that of the points with a margin of 500 m.
    samples
        Samples of the field along the longer side.
    """
    ties, checks, field = result.tie_points, result.check_points, result.field
    used = PointSet.of(ties, field, ties.used)
    x, y = _sample(result, bounds, samples)
    dx, dy = field.at(x, y)
    return CoregistrationDiagnostics(
        result, used, PointSet.of(ties, field, ~ties.used), PointSet.of(checks, field), x, y, dx, dy,
        _supported(used, x, y),
    )  # fmt: skip


def _sample(result: CoregistrationResult, bounds: Bounds | None, samples: int) -> tuple[FloatArray, FloatArray]:
    all_x = np.concatenate([result.tie_points.x, result.check_points.x])
    all_y = np.concatenate([result.tie_points.y, result.check_points.y])
    if all_x.size == 0:
        return np.zeros((0, 0)), np.zeros((0, 0))
    if bounds is None:
        bounds = Bounds(float(all_x.min()), float(all_y.min()), float(all_x.max()), float(all_y.max())).buffer(500.0)
    width, height = max(bounds.right - bounds.left, 1.0), max(bounds.top - bounds.bottom, 1.0)
    step = max(width, height) / samples
    columns, rows = max(2, round(width / step)), max(2, round(height / step))
    x, y = np.meshgrid(
        bounds.left + width * (np.arange(columns) + 0.5) / columns, bounds.top - height * (np.arange(rows) + 0.5) / rows
    )
    return x, y


def _supported(used: PointSet, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Where a used tie point lies within a few typical distances between neighbours."""
    if len(used) < 2 or x.size == 0:
        return np.zeros(x.shape, dtype=bool)
    tree = cKDTree(np.column_stack([used.x, used.y]))
    # The fourth neighbour: the nearest one says little about points that lie in groups.
    spacing = float(np.median(tree.query(tree.data, k=min(5, len(used)))[0][:, -1]))
    distance, _ = tree.query(np.column_stack([x.ravel(), y.ravel()]))
    return np.asarray(distance <= SUPPORT_SPACINGS * spacing).reshape(x.shape)
