"""Blocks of the HSI's grid that a scene is repaired in: fixed, whatever a fusion's tiles are, with context around them.

Ground that may have changed is seldom all of a block: groups of such pixels that lie far apart are looked at one by
one, each with its own context, where that is less than the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, label

from hsfuse.degrade import windows
from hsfuse.degrade.windows import Window

BoolArray = NDArray[np.bool_]

BLOCK_PX, CONTEXT_PX = 96, 16
"""Side of a block, and its context, HSI pixels."""
_REACH_PX = 6
"""HSI pixels around a candidate that its repair may change: growth, a blur, and interpolation."""
_APART_PX = 8
"""Half the distance of groups that are looked at one by one: more than twice what they change."""


def blocks(
    shape: tuple[int, int], context_px: int = CONTEXT_PX, side_px: int | None = None
) -> Iterator[tuple[Window, Window]]:
    """Blocks of an image of ``shape`` with context, and without; of :data:`BLOCK_PX` unless told otherwise."""
    side_px = side_px or BLOCK_PX
    for top in range(0, shape[0], side_px):
        for left in range(0, shape[1], side_px):
            core = slice(top, min(top + side_px, shape[0])), slice(left, min(left + side_px, shape[1]))
            yield windows.grown(core, context_px, shape), core


def places_around(candidates: BoolArray) -> Iterator[tuple[Window, Window]]:
    """Parts of an image around some of its pixels, block by block.

    Parameters
    ----------
    candidates
        Shape (row, col).

    Yields
    ------
    tuple
        A part with its context, and the part: what lies in none of them is too far from every candidate to change.
    """
    for read, core in blocks(candidates.shape):
        parts = list(_groups(candidates, core))
        area = sum(windows.size(around) for around, _ in parts)
        # Where they are many, their contexts would be more than the block.
        yield from parts if area < windows.size(read) else [(read, core)]


def write_blocks(
    image: NDArray[np.float32], found: Iterable[tuple[Window, NDArray[np.float32]] | None], side_px: int
) -> None:
    """Write blocks of so many pixels a side into an image, as they are made from its top on; None stays as it was.

    Every block looks at its neighbours as they were: one is written when all that look at it are made.
    """
    waiting: list[tuple[Window, NDArray[np.float32]]] = []
    for block in found:
        if block is None:
            continue
        waiting.append(block)
        above = (block[0][0].start // side_px - 1) * side_px
        while waiting[0][0][0].start < above:
            place, pixels = waiting.pop(0)
            image[:, *place] = pixels
    for place, pixels in waiting:
        image[:, *place] = pixels


def _groups(candidates: BoolArray, core: Window) -> Iterator[tuple[Window, Window]]:
    """Groups of candidates that reach into a block, each with its context, and what it may change of the block."""
    shape = candidates.shape
    near = windows.grown(core, _REACH_PX, shape)
    local = candidates[near]
    if not local.any():
        return
    square = np.ones((3, 3), bool)
    labels, _ = label(binary_dilation(local, square, iterations=_APART_PX), square)
    for box in find_objects(labels * local):
        place = (
            slice(near[0].start + box[0].start, near[0].start + box[0].stop),
            slice(near[1].start + box[1].start, near[1].start + box[1].stop),
        )
        part = windows.common(windows.grown(place, _REACH_PX, shape), core)
        if windows.size(part):
            yield windows.grown(place, _REACH_PX + CONTEXT_PX, shape), part
