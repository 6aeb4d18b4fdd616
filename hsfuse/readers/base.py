"""What every product offers: lazy windows of reflectance, masks, bands, a grid.

``workflows`` and everything below it see products only through these two protocols, so a new sensor is one new
folder (see :mod:`hsfuse.readers.entry`). Products return float32 reflectance (0 to 1, NaN where there is no data) and
never hold more than the window that was asked for. A product class inherits from the protocol that it fulfils: what
most products have nothing to say about (``read_ahead``, ``swir_reference``, ``stored`` ...) has a default there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid, PixelGeometry, Slice2D
from hsfuse.readers.source_dates import SourceDate
from hsfuse.readers.stored import StoredAs
from hsfuse.spectral import BandTable, SpectralResponse

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

ERROR_INVALID_L1 = 1
ERROR_NEGATIVE = 2
ERROR_SATURATED = 4
"""Bits of a hyperspectral product's per-sample error code (PRISMA L2 convention)."""


@dataclass(frozen=True)
class ProductInfo:
    """Facts about a product that reports and provenance repeat.

    Attributes
    ----------
    name
        Product name (file name without folder).
    sensor
        For instance ``PRISMA`` or ``Sentinel-2A``.
    level
        Processing level as the producer writes it.
    path
        Where it was read from.
    start
        Acquisition time (UTC) when known.
    sun_zenith_deg, sun_azimuth_deg, view_zenith_deg
        Scene geometry when known.
    attributes
        Anything else worth keeping, JSON-serialisable.
    """

    name: str
    sensor: str
    level: str
    path: Path
    start: datetime | None = None
    sun_zenith_deg: float | None = None
    sun_azimuth_deg: float | None = None
    view_zenith_deg: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class PixelSource(Protocol):
    """An image as it is stored, with where its pixels lie; blocks are stored rows and columns."""

    @property
    def grid(self) -> PixelGeometry:
        """Where the stored pixels lie."""
        ...

    def read(self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None) -> FloatCube:
        """Read reflectance, shape (band, row, col), NaN where a sample has no data."""
        ...

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels with data, shape (row, col)."""
        ...


@runtime_checkable
class HyperspectralProduct(Protocol):
    """A hyperspectral cube on a north-up grid."""

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        ...

    @property
    def grid(self) -> Grid:
        """Grid of the cube."""
        ...

    @property
    def bands(self) -> BandTable:
        """Acquired bands, ascending in wavelength (a VNIR/SWIR overlap already cut)."""
        ...

    def read(self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None) -> FloatCube:
        """Read reflectance, shape (band, row, col), NaN where a sample has no data.

        ``block`` lies inside the grid; ``bands`` are indices into :attr:`bands` (all when None).
        """
        ...

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels inside the imaged footprint, shape (row, col) (False on fill, whatever the band)."""
        ...

    def error_codes(
        self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None
    ) -> NDArray[np.uint8] | None:
        """Producer's error bits per sample (see ``ERROR_*``), shape (band, row, col); None when not delivered."""
        ...

    @property
    def stored_pixels(self) -> PixelSource:
        """The image before any resampling, so that a run resamples it once; the product itself by default."""
        return self

    def cloud(self, block: Slice2D) -> BoolArray | None:  # noqa: ARG002 - for those who do
        """Pixels hidden by cloud, cloud shadow or cirrus; None (the default) when the product has no such mask."""
        return None

    def panchromatic(self) -> MultispectralProduct | None:
        """Open the panchromatic image that the product brings, as an image of one band; None (default) without one.

        It belongs to the product and is closed with it.
        """
        return None

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:  # noqa: ARG002 - for those who do
        """Begin to fetch what will be read soon, where that pays; returns at once. Nothing by default."""
        return

    def close(self) -> None:
        """Release the file and remove what was unpacked."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class MultispectralProduct(Protocol):
    """A multispectral image on a north-up grid, finer than the hyperspectral one."""

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        ...

    @property
    def grid(self) -> Grid:
        """Grid of the (finest) bands."""
        ...

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in reading order, such as ``("B02", "B03", "B04", "B08")``."""
        ...

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Spectral responses in reading order; None when unknown."""
        ...

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance of the finest grid, shape (band, row, col), NaN where there is no data.

        Coarser bands (20 m) are brought to the finest grid by bilinear interpolation.
        """
        ...

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud, cloud shadow or cirrus; None when the product has no such mask."""
        ...

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classification (Sentinel-2 SCL codes) on the finest grid; None when not delivered."""
        ...

    @property
    def offers_band_choice(self) -> bool:
        """Whether ``--s2-bands`` chooses among the product's bands (False: all are read anyway)."""
        return False

    @property
    def sources(self) -> tuple[Path, ...]:
        """Paths of the products that are read, which may be some of those in a folder that was given."""
        return (self.info.path,)

    @property
    def dates(self) -> tuple[SourceDate, ...]:
        """Dates that the image is composed of, and those that were not needed; empty (the default) for one date."""
        return ()

    @property
    def partners(self) -> tuple[MultispectralProduct, ...]:
        """Further dates on the same pixels, closed with the product; none (the default) where none are wanted."""
        return ()

    def date_numbers(self, block: Slice2D) -> NDArray[np.uint8]:
        """Which of :attr:`dates` a pixel shows, counted from 1, shape (row, col); 0 where it is not composed."""
        return np.zeros(block.shape, np.uint8)

    @property
    def stored(self) -> StoredAs | None:
        """How the file stores its numbers, for a changed copy; None where that is no single raster."""
        return None

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:  # noqa: ARG002 - for those who do
        """Begin to fetch what will be read soon, where that pays; returns at once. Nothing by default."""
        return

    def swir_reference(self) -> MultispectralProduct | None:
        """Open the same image with its SWIR bands, when it was opened without them; None when there are none.

        The caller closes it.
        """
        return None

    def close(self) -> None:
        """Release the files and remove what was unpacked."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
