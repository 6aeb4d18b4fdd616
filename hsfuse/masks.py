"""Masks: what is nodata, what is cloud, how far they reach.

Masks are boolean arrays (row, col); True always means *usable* in a ``valid`` mask and *affected* in a
``cloud`` mask.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

SCL_CLOUD = (3, 8, 9, 10)
"""Sentinel-2 scene classes that hide the ground: cloud shadow, medium and high cloud, thin cirrus."""
SCL_UNMATCHABLE = (0, 1, 3, 6, 8, 9, 10)
"""Scene classes without trustworthy ground texture for matching (also saturated pixels and water)."""
_SMALL_RADIUS_PX = 12


def in_classes(classes: NDArray[np.integer], wanted: tuple[int, ...]) -> BoolArray:
    """Mark where a class map holds one of ``wanted``."""
    if classes.dtype != np.uint8:
        return np.isin(classes, wanted)
    table = np.zeros(256, bool)
    table[list(wanted)] = True
    return np.asarray(table[classes], dtype=np.bool_)


def dilate(mask: BoolArray, radius_px: int) -> BoolArray:
    """Grow a mask by a disc of ``radius_px`` pixels."""
    if radius_px <= 0 or not mask.any():
        return mask
    if radius_px > _SMALL_RADIUS_PX:
        from scipy import ndimage

        # A distance transform costs the same for every radius; growing step by step does not.
        return np.asarray(ndimage.distance_transform_edt(~mask) <= radius_px, dtype=np.bool_)
    grown = mask.copy()
    rows, row, wide = mask.shape[0], mask, 0
    for dy in range(radius_px, -1, -1):
        half = math.isqrt(radius_px**2 - dy**2)
        for dx in range(wide + 1, half + 1):
            row = row.copy() if row is mask else row
            row[:, dx:] |= mask[:, :-dx]
            row[:, :-dx] |= mask[:, dx:]
        wide = half
        if dy < rows:
            grown[dy:] |= row[: rows - dy]
            grown[: rows - dy] |= row[dy:]
    return grown


def expand(mask: BoolArray, ratio: int) -> BoolArray:
    """Refine a mask: repeat each pixel ``ratio`` x ``ratio`` times."""
    return np.repeat(np.repeat(mask, ratio, axis=0), ratio, axis=1)
