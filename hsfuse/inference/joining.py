"""Cubes joined into one, several bands at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.parallel import do_all, threads_for

FloatCube = NDArray[np.float32]

_COPIED_BANDS, _MOST_COPY_THREADS, _WORTH_THREADS = 2, 4, 4_000_000
"""Bands that a thread copies at a time, and samples that are worth threads."""


def joined(*cubes: FloatCube) -> FloatCube:
    """Copy cubes (band, row, col) into one, one above the other, several bands at a time."""
    edges = np.cumsum([0, *(cube.shape[1] for cube in cubes)])
    whole = np.empty((cubes[0].shape[0], edges[-1], cubes[0].shape[2]), cubes[0].dtype)

    def copy(bands: slice) -> None:
        for cube, first, last in zip(cubes, edges[:-1], edges[1:], strict=True):
            whole[bands, first:last] = cube[bands]

    parts = [slice(first, first + _COPIED_BANDS) for first in range(0, len(whole), _COPIED_BANDS)]
    do_all(copy, parts, threads_for(_MOST_COPY_THREADS) if whole.size >= _WORTH_THREADS else 1)
    return whole
