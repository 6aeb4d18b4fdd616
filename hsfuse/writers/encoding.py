"""Reflectance as stored numbers, and back; the one place that knows scale, nodata and range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import OutputDtype
from hsfuse.native import image

REFLECTANCE_SCALE = 10_000.0
"""Stored integer per unit of reflectance."""


@dataclass(frozen=True)
class SampleEncoding:
    """How reflectance becomes stored numbers, and back.

    Attributes
    ----------
    dtype
        Stored type, little endian.
    scale
        Stored number per unit of reflectance.
    lowest, highest
        Range that valid samples are clipped to; nodata lies outside it.
    nodata
        Stored value of samples without data.
    """

    dtype: np.dtype[Any]
    scale: float
    lowest: float
    highest: float
    nodata: float

    @classmethod
    def of(cls, dtype: OutputDtype) -> SampleEncoding:
        """Return the encoding that belongs to an output type."""
        if dtype == "int16":
            return cls(np.dtype("<i2"), REFLECTANCE_SCALE, -32767.0, 32767.0, -32768.0)
        if dtype == "uint16":
            return cls(np.dtype("<u2"), REFLECTANCE_SCALE, 0.0, 65534.0, 65535.0)
        return cls(np.dtype("<f4"), 1.0, -np.inf, np.inf, float("nan"))

    @property
    def is_integer(self) -> bool:
        """Whether samples are scaled integers."""
        return self.scale != 1.0

    def encode(self, reflectance: NDArray[np.float32]) -> NDArray[Any]:
        """Turn reflectance (NaN or infinite = no data) into stored samples of the same shape."""
        missing = ~np.isfinite(reflectance)
        if not self.is_integer:
            return np.where(missing, np.float32("nan"), reflectance).astype(self.dtype, copy=False)
        # Double precision: a float32 product would round x.5 cases differently from the exact value.
        scaled = np.multiply(reflectance, self.scale, dtype=np.float64)
        np.rint(scaled, out=scaled)
        np.clip(scaled, self.lowest, self.highest, out=scaled)
        scaled[missing] = self.nodata
        return scaled.astype(self.dtype)

    def encode_into(
        self,
        reflectance: NDArray[np.float32],
        valid: NDArray[np.bool_],
        out: NDArray[Any],
        limits: tuple[float, float] | None = None,
    ) -> int:
        """Mask, clip and encode in one go, into ``out``; the compiled kernels do it in one pass.

        Parameters
        ----------
        reflectance
            Shape (band, row, col), NaN = no data; may be overwritten.
        valid
            Pixels that carry data, shape (row, col).
        out
            Stored samples, shape (band, row, col), any strides.
        limits
            Reflectance outside is cut off and counted.

        Returns
        -------
        int
            Samples outside the limits.
        """
        if self.is_integer and reflectance.strides[2] == 4 and out.strides[2] == 2 and valid.strides[1] == 1:
            stored = (self.lowest, self.highest, self.nodata)
            count = image.encode(reflectance, valid, limits, self.scale, stored, out)
            if count is not None:
                return count
        outside = 0
        invalid = ~valid
        # Band by band, so that no temporary is as large as the block.
        for plane, target in zip(reflectance, out, strict=True):
            plane[invalid | np.isinf(plane)] = np.nan
            if limits is not None:
                # After masking: stand-ins under a mask are no samples of the product.
                beyond = int(np.count_nonzero((plane < limits[0]) | (plane > limits[1])))
                if beyond:
                    outside += beyond
                    np.clip(plane, *limits, out=plane)
            target[:] = self.encode(plane)
        return outside

    def decode(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Turn stored samples back into float32 reflectance with NaN = no data."""
        if not self.is_integer:
            return stored.astype(np.float32)
        # A product of float32, as all who read the finished file compute it: a cube has one set of values.
        reflectance: NDArray[np.float32] = np.multiply(stored, np.float32(1.0 / self.scale), dtype=np.float32)
        reflectance[stored == self.dtype.type(self.nodata)] = np.nan
        return reflectance


class RowSource(Protocol):
    """Something that hands out stored samples, from which a product file is built."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(band, row, col)."""
        ...

    @property
    def raw_file(self) -> Path | None:
        """File that holds just these samples, band interleaved by line; None where there is none."""
        ...

    def read(self, row0: int, rows: int, band0: int = 0, band1: int | None = None) -> NDArray[Any]:
        """Stored samples of bands ``[band0, band1)``, shape (band, rows, col)."""
        ...
