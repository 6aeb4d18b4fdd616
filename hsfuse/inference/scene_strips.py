"""Full-width rows of a scene, as they are read and as they are fused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.joining import joined

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SceneStrip:
    """Full-width rows of the scene.

    Attributes
    ----------
    rows
        Block on the HSI grid.
    hsi
        Shape (band, row, col), free of NaN.
    missing
        Samples of ``hsi`` that are stand-ins in pixels with other bands, shape (band, row, col); None when there are
        none.
    msi
        Shape (msi band, row * ratio, col * ratio), free of NaN.
    valid
        Fine pixels that may carry a result, shape (row * ratio, col * ratio).
    cloud
        Fine pixels hidden by cloud (part of what is not valid when clouds are masked).
    """

    rows: Slice2D
    hsi: FloatCube
    missing: BoolArray | None
    msi: FloatCube
    valid: BoolArray
    cloud: BoolArray


@dataclass(frozen=True)
class RawStrip:
    """Full-width rows as they were read; NaN where there is no data. Attributes as in :class:`SceneStrip`."""

    rows: Slice2D
    hsi: FloatCube
    msi: FloatCube
    cloud: BoolArray

    def below(self, row: int, ratio: int) -> RawStrip:
        """Return a copy of the rows from ``row`` on."""
        first = row - self.rows.row0
        return RawStrip(
            Slice2D(row, self.rows.row1, self.rows.col0, self.rows.col1),
            joined(self.hsi[:, first:]), joined(self.msi[:, first * ratio :]), self.cloud[first * ratio :].copy(),
        )  # fmt: skip

    def then(self, other: RawStrip) -> RawStrip:
        """Return this strip with the one below it."""
        return RawStrip(
            Slice2D(self.rows.row0, other.rows.row1, self.rows.col0, self.rows.col1),
            joined(self.hsi, other.hsi), joined(self.msi, other.msi), np.concatenate([self.cloud, other.cloud]),
        )  # fmt: skip
