"""A guide on other pixels than its own: those that nest in the hyperspectral image's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.warp import Resampler
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.readers.source_dates import SourceDate

_log = get_logger(__name__)


class ResampledGuide(MultispectralDecorator):
    """A multispectral product resampled to another pixel size, window by window.

    Reflectance goes through cubic convolution, widened in proportion where pixels become larger; clouds and classes are
    those of the nearest pixel.

    Parameters
    ----------
    inner
        The product; this one closes it.
    pixel_m
        Pixel size, metres.
    """

    def __init__(self, inner: MultispectralProduct, pixel_m: float) -> None:
        super().__init__(inner)
        own = inner.grid
        left, top = own.bounds.left, own.bounds.top
        # Whole pixels only: a sliver at the end has no ground under half of it.
        height = max(1, math.floor(own.height * own.pixel_m / pixel_m + 1e-6))
        width = max(1, math.floor(own.width * own.pixel_m / pixel_m + 1e-6))
        self._grid = Grid.from_origin(own.crs, left, top, pixel_m, height, width)
        self._resampler = Resampler(own, self._grid)
        if inner.partners:
            _log.warning("The guide is resampled to %g m: it is not combined with further dates.", pixel_m)

    @property
    def partners(self) -> tuple[MultispectralProduct, ...]:
        """None: resampling takes noise out of the finest detail, by which noise of two dates is told from change."""
        return ()

    @property
    def grid(self) -> Grid:
        """Grid of the resampled image."""
        return self._grid

    @property
    def offers_band_choice(self) -> bool:
        """Whether the product was opened with a choice of its bands."""
        return self._product.offers_band_choice

    @property
    def sources(self) -> tuple[Path, ...]:
        """The products that the image is made of."""
        return self._product.sources

    @property
    def dates(self) -> tuple[SourceDate, ...]:
        """The dates that the image is composed of; none for an image of one date."""
        return self._product.dates

    def date_numbers(self, block: Slice2D) -> NDArray[np.uint8]:
        """Which of :attr:`dates` a pixel shows, counted from 1, shape (row, col)."""
        source, rows, cols = self._nearest(block)
        return self._product.date_numbers(source)[np.ix_(rows, cols)]

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance, shape (band, row, col), NaN where there is no data."""
        source = self._resampler.source_block(block)
        if min(source.shape) < 1:
            count = len(self.band_names) if bands is None else len(bands)
            return np.full((count, *block.shape), np.nan, np.float32)
        return self._resampler.apply(self._product.read(source, bands), source, block)

    def _nearest(self, block: Slice2D) -> tuple[Slice2D, NDArray[np.intp], NDArray[np.intp]]:
        """Block of the product's own pixels, and the nearest row and column in it of each pixel of a block."""
        own, scale = self._product.grid, self._grid.pixel_m / self._product.grid.pixel_m
        rows = np.minimum(((np.arange(block.row0, block.row1) + 0.5) * scale).astype(np.intp), own.height - 1)
        cols = np.minimum(((np.arange(block.col0, block.col1) + 0.5) * scale).astype(np.intp), own.width - 1)
        source = Slice2D(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
        return source, rows - source.row0, cols - source.col0

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud, cloud shadow or cirrus; None when the product has no such mask."""
        source, rows, cols = self._nearest(block)
        mask = self._product.cloud(source)
        return None if mask is None else mask[np.ix_(rows, cols)]

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classes; None when not delivered."""
        source, rows, cols = self._nearest(block)
        classes = self._product.classes(source)
        return None if classes is None else classes[np.ix_(rows, cols)]

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Begin to fetch what will be read soon."""
        inside = block.clipped(*self._grid.shape)
        if min(inside.shape) > 0:
            self._product.read_ahead(self._resampler.source_block(inside), bands)

    def swir_reference(self) -> MultispectralProduct | None:
        """The same image with its SWIR bands, on its own pixels; None when there are none."""
        return self._product.swir_reference()
