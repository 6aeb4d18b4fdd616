"""The first rows of a scene's HSI, read while a method still learns: a card would else wait for them.

Decoding and resampling the first strip takes half a second in which nothing can be fused, compressed or judged. While
a method learns, some cores have nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene

FloatCube = NDArray[np.float32]


class FirstRows:
    """Full-width rows of the HSI that are being read.

    Parameters
    ----------
    rows
        Block on the HSI grid.
    cube
        What will be read, shape (band, row, col).
    """

    def __init__(self, rows: Slice2D, cube: Future[FloatCube]) -> None:
        self._rows = rows
        self._cube: Future[FloatCube] | None = cube

    def take(self, rows: Slice2D) -> FloatCube | None:
        """Return some of the rows, once; None where others are wanted, or they were taken."""
        known, cube = self._rows, self._cube
        inside = known.row0 <= rows.row0 and rows.row1 <= known.row1
        if cube is None or not inside or (rows.col0, rows.col1) != (known.col0, known.col1):
            return None
        # They are read once; kept, they would be a strip more in memory.
        self._cube = None
        found = cube.result()
        return np.ascontiguousarray(found[:, rows.row0 - known.row0 : rows.row1 - known.row0])


@contextmanager
def reading_first_rows(scene: FusionScene, rows: Slice2D) -> Iterator[FusionScene]:
    """Return a scene whose first rows are read by a thread; they are those of the scene to the last bit.

    Parameters
    ----------
    scene
        Whose HSI is read.
    rows
        What the first row of tiles will look at.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-first") as pool:
        yield replace(scene, first_rows=FirstRows(rows, pool.submit(scene.read_hsi, rows)))
