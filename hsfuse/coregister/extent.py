"""The outline of an image's pixels with data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.models import FloatArray

BoolArray = NDArray[np.bool_]

_HULL_STEP = 4


def convex_outline(image: NDArray[np.float32]) -> Callable[[FloatArray | NDArray[np.integer]], BoolArray]:
    """Test for positions (row, col) inside the convex hull of the pixels with data."""
    some = np.isfinite(image[::_HULL_STEP])
    rows = np.flatnonzero(some.any(axis=1))
    first, last = some[rows].argmax(axis=1), image.shape[1] - 1 - some[rows, ::-1].argmax(axis=1)
    outline = np.column_stack([np.tile(rows * _HULL_STEP, 2), np.concatenate([first, last])])

    @cache
    def triangles() -> Any:
        from scipy.spatial import ConvexHull, Delaunay, QhullError

        try:
            return Delaunay(outline[ConvexHull(outline).vertices])
        except QhullError:
            return None

    def inside(position: FloatArray | NDArray[np.integer]) -> BoolArray:
        found = triangles()
        if found is None:
            return np.ones(len(position), dtype=np.bool_)
        return np.asarray(found.find_simplex(position) >= 0)

    return inside
