"""Places spread over the footprint of a hyperspectral image, and what tiles show there: data, cloud, clear ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.masks import SCL_CLOUD, BoolArray, dilate, in_classes
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.source_dates import DateWish

NO_DATA, HIDDEN, RIM, CLEAR = 0, 1, 2, 3
"""State of a pixel: not imaged, hidden by cloud or its shadow (or defective), clear beside what is hidden, clear."""

_GROW_PX = 3
"""Scene classes miss the rim of clouds: so far from them, other dates are to be preferred."""
_DEFECTIVE = 1
_POINTS_ALONG = 256
_STRIP_ROWS = 1024

States = NDArray[np.uint8]


def states(product: MultispectralProduct, block: Slice2D) -> States:
    """State of the pixels of a block (``NO_DATA``, ``HIDDEN``, ``RIM``, ``CLEAR``), shape (row, col).

    Without scene classes (L1C), what is imaged is read from the first band.
    """
    rim = _GROW_PX
    grown = Slice2D(block.row0 - rim, block.row1 + rim, block.col0 - rim, block.col1 + rim).clipped(*product.grid.shape)
    classes = product.classes(grown)
    hidden: BoolArray
    if classes is not None:
        seen = classes != 0
        hidden = in_classes(classes, (*SCL_CLOUD, _DEFECTIVE))
    else:
        seen = np.isfinite(product.read(grown, (0,))[0])
        cloud = product.cloud(grown)
        hidden = np.zeros(grown.shape, np.bool_) if cloud is None else cloud
    found = np.where(dilate(hidden, rim), np.uint8(RIM), np.uint8(CLEAR))
    found[hidden] = HIDDEN
    found[~seen] = NO_DATA
    inner = Slice2D(block.row0 - grown.row0, block.row1 - grown.row0, block.col0 - grown.col0, block.col1 - grown.col0)
    return np.ascontiguousarray(found[inner.slices])


class FootprintPoints:
    """Evenly spread places on a hyperspectral image, at most 256 along each side.

    Parameters
    ----------
    target
        Grid of the hyperspectral image, as claimed.
    wish
        Tells which of its pixels were imaged.
    """

    def __init__(self, target: Grid, wish: DateWish) -> None:
        step = max(1, -(-max(target.shape) // _POINTS_ALONG))
        rows, cols = np.arange(step // 2, target.height, step), np.arange(step // 2, target.width, step)
        at_row, at_col = np.repeat(rows, cols.size), np.tile(cols, rows.size)
        if wish.imaged is not None:
            imaged = wish.imaged(target.full)[at_row, at_col]
            if imaged.any():
                at_row, at_col = at_row[imaged], at_col[imaged]
        self._x, self._y = target.xy(at_row.astype(np.float64), at_col.astype(np.float64))
        self._crs = target.crs

    def __len__(self) -> int:
        return int(self._x.size)

    def states(self, product: MultispectralProduct) -> States:
        """State of a product's pixel at each place, shape (place,)."""
        out = np.zeros(len(self), np.uint8)
        grid = product.grid
        try:
            x, y = reproject_xy(self._crs, grid.crs, self._x, self._y)
        except OverlapError:
            return out
        at_row, at_col = grid.rowcol(x, y)
        sound = np.isfinite(at_row) & np.isfinite(at_col)
        row = np.where(sound, np.rint(np.where(sound, at_row, 0.0)), -1.0).astype(np.int64)
        col = np.where(sound, np.rint(np.where(sound, at_col, 0.0)), -1.0).astype(np.int64)
        inside = (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
        if not inside.any():
            return out
        left, right = int(col[inside].min()), int(col[inside].max()) + 1
        for top in range(int(row[inside].min()), int(row[inside].max()) + 1, _STRIP_ROWS):
            bottom = min(top + _STRIP_ROWS, grid.height)
            here = inside & (row >= top) & (row < bottom)
            if here.any():
                strip = states(product, Slice2D(top, bottom, left, right))
                out[here] = strip[row[here] - top, col[here] - left]
        return out
