"""Windows of an image, and rows alone, as slices: grown, inside others, shared by two, on a finer grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Window = tuple[slice, slice]
"""Rows and columns of a grid, with start and stop."""


def grown(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    """Grow a window by a margin as far as an image of ``shape`` reaches."""
    rows, cols = (rows_around(part, margin, size) for part, size in zip(window, shape, strict=True))
    return rows, cols


def inside(window: Window, outer: Window) -> Window:
    """Return where a window lies within another one that holds it."""
    rows, cols = (rows_inside(part, around) for part, around in zip(window, outer, strict=True))
    return rows, cols


def rows_around(rows: slice, margin: int, height: int) -> slice:
    """Return some rows with a margin, as far as an image of so many rows reaches."""
    return slice(max(rows.start - margin, 0), min(rows.stop + margin, height))


def rows_inside(rows: slice, outer: slice) -> slice:
    """Return some rows as counted from the first of others."""
    return slice(rows.start - outer.start, rows.stop - outer.start)


def row_parts(rows: int, most: int) -> list[slice]:
    """Cut rows into parts of so many at most, from the top."""
    return [slice(top, min(top + most, rows)) for top in range(0, rows, most)]


def finer(window: Window, ratio: int) -> Window:
    """Return a window on a grid that is finer by a ratio."""
    rows, cols = (slice(part.start * ratio, part.stop * ratio) for part in window)
    return rows, cols


def common(first: Window, second: Window) -> Window:
    """Return what two windows share; it stops where it starts, or before, where they share nothing."""
    rows, cols = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return rows, cols


def size(window: Window) -> int:
    """Return the number of pixels of a window."""
    rows, cols = window
    return int(max(rows.stop - rows.start, 0) * max(cols.stop - cols.start, 0))


def holding(mask: NDArray[np.bool_], window: Window) -> Window | None:
    """Return the smallest part of a window that holds all True pixels of (row, col) in it; None where it has none."""
    found = []
    for part, axis in zip(window, (1, 0), strict=True):
        used = np.flatnonzero(mask[window].any(axis=axis))
        if not used.size:
            return None
        found.append(slice(part.start + int(used[0]), part.start + int(used[-1]) + 1))
    return found[0], found[1]


def whole(image: Tensor) -> Window:
    """Return the window that is all of (..., row, col)."""
    return slice(0, image.shape[-2]), slice(0, image.shape[-1])
