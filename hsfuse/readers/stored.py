"""How a raster stores its numbers, so that a changed copy can be stored alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StoredAs:
    """How a raster stores its numbers, so that a changed copy can be stored alike.

    Attributes
    ----------
    dtype
        Data type of all bands (the common one where they differ).
    nodata
        Number that marks missing samples; chosen when the file names none.
    scale, offset
        What turned stored numbers into those that were read, per band.
    tag_scale, tag_offset
        What the file itself says of that, per band.
    tags, band_tags
        Metadata items without statistics.
    """

    dtype: np.dtype[Any]
    nodata: float
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    tag_scale: tuple[float, ...]
    tag_offset: tuple[float, ...]
    tags: Mapping[str, str]
    band_tags: tuple[Mapping[str, str], ...]

    @classmethod
    def reflectance(cls, bands: int) -> StoredAs:
        """Float32 reflectance, NaN where there is none: for products that are no single raster."""
        ones, zeros = np.ones(bands, np.float32), np.zeros(bands, np.float32)
        plain = (1.0,) * bands, (0.0,) * bands
        return cls(np.dtype(np.float32), float("nan"), ones, zeros, *plain, {}, ({},) * bands)

    def encode(self, cube: NDArray[np.float32]) -> NDArray[Any]:
        """Turn values as they were read, shape (band, row, col), back into stored numbers; NaN becomes nodata."""
        missing = np.isnan(cube)
        stored = (cube - self.offset[:, None, None]) / self.scale[:, None, None]
        if self.dtype.kind == "f":
            out: NDArray[Any] = np.where(missing, np.float64(self.nodata), stored).astype(self.dtype)
            return out
        limits = np.iinfo(self.dtype)
        stored = np.clip(np.rint(np.nan_to_num(stored)), limits.min, limits.max)
        # A measurement must not turn into a gap by rounding.
        step = -1.0 if self.nodata == limits.max else 1.0
        stored[stored == self.nodata] += step
        stored[missing] = self.nodata
        return np.asarray(stored, dtype=self.dtype)
