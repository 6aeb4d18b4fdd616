"""Checks of the arguments that every reader's ``read`` takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D

BandIndex = Sequence[int] | NDArray[np.integer] | None


def check_block(block: Slice2D, shape: tuple[int, int]) -> None:
    """Raise :class:`UsageError` unless a block is not empty and lies inside an image of ``shape`` (rows, cols)."""
    if block.clipped(*shape) != block or min(block.shape) < 1:
        raise UsageError(f"{block} does not lie inside the image of {shape[0]} x {shape[1]} pixels.")


def band_index(bands: BandIndex, count: int) -> NDArray[np.int64]:
    """Turn a ``bands`` argument into indices (all when None)."""
    every = np.arange(count)
    return every if bands is None else every[np.asarray(bands, dtype=np.int64)]
