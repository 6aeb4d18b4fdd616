"""Which pixels of the rows that are being fused carry a result."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hsfuse.inference.scene_strips import SceneStrip

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RowMasks:
    """What is known about finished fine rows; ``missing`` samples (band, row, col) are on the coarse grid."""

    valid: BoolArray
    cloud: BoolArray
    missing: BoolArray | None


@dataclass
class MasksAhead:
    """Validity of fine rows that are not handed over yet."""

    top: int = 0
    valid: BoolArray | None = None
    cloud: BoolArray | None = None
    missing: BoolArray | None = None
    ratio: int = 1
    bands: int = field(default=0)

    def extend(self, strip: SceneStrip) -> None:
        """Append what the strip knows about rows not seen yet."""
        known = self.top + (0 if self.valid is None else self.valid.shape[0])
        skip = known - strip.rows.row0 * self.ratio
        missing = strip.missing
        if missing is None:
            missing = np.zeros((self.bands, 1, 1), bool)
        rows = np.broadcast_to(missing, (self.bands, *strip.rows.shape))[:, skip // self.ratio :]
        if self.valid is None or self.cloud is None or self.missing is None:
            self.valid, self.cloud, self.missing = strip.valid[skip:], strip.cloud[skip:], rows
            return
        self.valid = np.concatenate([self.valid, strip.valid[skip:]])
        self.cloud = np.concatenate([self.cloud, strip.cloud[skip:]])
        self.missing = np.concatenate([self.missing, rows], axis=1)

    def take(self, count: int) -> RowMasks:
        """Remove and return ``count`` fine rows."""
        if self.valid is None or self.cloud is None or self.missing is None:
            raise RuntimeError("no rows were read")
        coarse = count // self.ratio
        taken = self.valid[:count], self.cloud[:count], self.missing[:, :coarse]
        self.valid, self.cloud = self.valid[count:].copy(), self.cloud[count:].copy()
        self.missing = self.missing[:, coarse:].copy()
        self.top += count
        return RowMasks(taken[0], taken[1], taken[2] if taken[2].any() else None)
