"""Two guides as one: a multispectral image and a finer panchromatic one on the finer grid.

Bands of the multispectral image stand on the fine grid as they were measured, every pixel repeated: what a method makes
of them at their own resolution can be taken out again without loss. The panchromatic image is resampled once, to where
the multispectral image shows the same ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.readers.source_dates import SourceDate
from hsfuse.spectral import SpectralResponse


class JoinedGuide(MultispectralProduct):
    """Bands of a multispectral product, then those of a panchromatic one.

    Parameters
    ----------
    coarse
        The multispectral product; positions are its own.
    fine
        The panchromatic product, finer by a whole factor.
    field
        True minus claimed positions of ``fine``; None: as claimed.
    responses
        Of all bands; None: the products' own.

    Raises
    ------
    UsageError
        The pixel sizes do not nest, or a band has unknown responses.
    """

    def __init__(
        self,
        coarse: MultispectralProduct,
        fine: MultispectralProduct,
        field: DisplacementField | None = None,
        responses: Sequence[SpectralResponse] | None = None,
    ) -> None:
        exact = coarse.grid.pixel_m / fine.grid.pixel_m
        self.factor = round(exact)
        if self.factor < 2 or abs(exact / self.factor - 1.0) > 0.01:
            raise UsageError(
                f"The guides' pixels of {coarse.grid.pixel_m:g} m and {fine.grid.pixel_m:g} m are not in a whole ratio "
                "of 2 or more.",
                hint="Use one of them: --guide s2 or --guide pan.",
            )
        if coarse.responses is None or fine.responses is None:
            raise UsageError(
                f"The spectral responses of {(coarse if coarse.responses is None else fine).info.name} are not known.",
                hint="Use one guide: --guide s2 or --guide pan.",
            )
        self.coarse, self.fine, self._field = coarse, fine, field
        self._responses = tuple(responses or (*coarse.responses, *fine.responses))
        self._grid = coarse.grid.nested(self.factor)
        self._resampler = Resampler(fine.grid, self._grid, field)

    def aligned(self, field: DisplacementField) -> JoinedGuide:
        """Return the same guides with corrected positions of the panchromatic one."""
        return JoinedGuide(self.coarse, self.fine, field, self._responses)

    def with_responses(self, responses: Sequence[SpectralResponse]) -> JoinedGuide:
        """Return the same guides with responses that were found out elsewhere."""
        return JoinedGuide(self.coarse, self.fine, self._field, responses)

    def finest(self) -> SomeBands:
        """Return the bands that are measured with the pixels of :attr:`grid`."""
        return SomeBands(self, range(self.n_coarse, len(self.band_names)))

    @property
    def n_coarse(self) -> int:
        """Number of multispectral bands; the panchromatic ones follow."""
        return len(self.coarse.band_names)

    @property
    def info(self) -> ProductInfo:
        """Facts about the multispectral product."""
        return self.coarse.info

    @property
    def grid(self) -> Grid:
        """The multispectral grid, finer by the factor."""
        return self._grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of all bands."""
        return (*self.coarse.band_names, *self.fine.band_names)

    @property
    def responses(self) -> tuple[SpectralResponse, ...]:
        """Spectral responses of all bands."""
        return self._responses

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data."""
        index = list(range(len(self.band_names))) if bands is None else [int(band) for band in bands]
        out = np.empty((len(index), *block.shape), np.float32)
        of_coarse = [band for band in index if band < self.n_coarse]
        if of_coarse:
            around = self._around(block)
            seen = _repeated(self.coarse.read(around, of_coarse), self.factor)
            out[[i for i, band in enumerate(index) if band < self.n_coarse]] = self._cut(seen, around, block)
        of_fine = [band - self.n_coarse for band in index if band >= self.n_coarse]
        if of_fine:
            out[[i for i, band in enumerate(index) if band >= self.n_coarse]] = self._read_fine(block, of_fine)
        return out

    def _read_fine(self, block: Slice2D, bands: Sequence[int]) -> FloatCube:
        source = self._resampler.source_block(block)
        if min(source.shape) < 1:
            return np.full((len(bands), *block.shape), np.nan, np.float32)
        return self._resampler.apply(self.fine.read(source, bands), source, block)

    def _around(self, block: Slice2D) -> Slice2D:
        f = self.factor
        return Slice2D(block.row0 // f, -(-block.row1 // f), block.col0 // f, -(-block.col1 // f))

    def _cut(self, image: NDArray[Any], around: Slice2D, block: Slice2D) -> NDArray[Any]:
        top, left = block.row0 - around.row0 * self.factor, block.col0 - around.col0 * self.factor
        return image[..., top : top + block.shape[0], left : left + block.shape[1]]

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud in the multispectral image."""
        around = self._around(block)
        mask = self.coarse.cloud(around)
        return None if mask is None else np.asarray(self._cut(_repeated(mask, self.factor), around, block), np.bool_)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classification of the multispectral image."""
        around = self._around(block)
        found = self.coarse.classes(around)
        return None if found is None else np.asarray(self._cut(_repeated(found, self.factor), around, block), np.uint8)

    @property
    def offers_band_choice(self) -> bool:
        """As the multispectral product."""
        return self.coarse.offers_band_choice

    @property
    def sources(self) -> tuple[Path, ...]:
        """Those of the multispectral product; the panchromatic image belongs to the hyperspectral one."""
        return self.coarse.sources

    @property
    def dates(self) -> tuple[SourceDate, ...]:
        """Dates of the multispectral image."""
        return self.coarse.dates

    def date_numbers(self, block: Slice2D) -> NDArray[np.uint8]:
        """Which of them a pixel shows."""
        around = self._around(block)
        return np.asarray(self._cut(_repeated(self.coarse.date_numbers(around), self.factor), around, block), np.uint8)

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Fetch bands of the multispectral image ahead."""
        wanted = range(self.n_coarse) if bands is None else [band for band in bands if band < self.n_coarse]
        self.coarse.read_ahead(self._around(block), list(wanted))

    def swir_reference(self) -> MultispectralProduct | None:
        """Open the multispectral image with its SWIR bands."""
        return self.coarse.swir_reference()

    def close(self) -> None:
        """Close both."""
        self.coarse.close()
        self.fine.close()


class CoarsePixels(MultispectralDecorator):
    """A product seen with pixels of ``factor`` x ``factor`` of its own: enough to find out where it lies."""

    def __init__(self, product: MultispectralProduct, factor: int) -> None:
        super().__init__(product)
        self._factor = factor
        self._grid = product.grid.coarsened(factor)

    @property
    def grid(self) -> Grid:
        """Grid of the larger pixels."""
        return self._grid

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read means of pixels, NaN where one of them has no data."""
        f = self._factor
        fine = self._product.read(block.scaled(f), bands)
        rows, cols = block.shape
        return np.asarray(fine.reshape(-1, rows, f, cols, f).mean(axis=(2, 4)), np.float32)

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels that hold any cloud."""
        mask = self._product.cloud(block.scaled(self._factor))
        f, (rows, cols) = self._factor, block.shape
        return None if mask is None else np.asarray(mask.reshape(rows, f, cols, f).any(axis=(1, 3)), np.bool_)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Classes at the pixels' upper left corners."""
        found = self._product.classes(block.scaled(self._factor))
        return None if found is None else found[:: self._factor, :: self._factor]

    def close(self) -> None:
        """Nothing: the product is closed by who opened it."""


class SomeBands(MultispectralDecorator):
    """Some bands of a product; everything else is its own, and it is closed by who opened it."""

    def __init__(self, product: MultispectralProduct, bands: Sequence[int]) -> None:
        super().__init__(product)
        self._bands = tuple(bands)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(self._product.band_names[band] for band in self._bands)

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Their spectral responses."""
        every = self._product.responses
        return None if every is None else tuple(every[band] for band in self._bands)

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read bands, counted among these."""
        chosen = self._bands if bands is None else [self._bands[int(band)] for band in bands]
        return self._product.read(block, list(chosen))

    def close(self) -> None:
        """Nothing: the product is closed by who opened it."""


def _repeated(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Repeat every pixel of (..., row, col) ``factor`` x ``factor`` times."""
    return np.repeat(np.repeat(image, factor, axis=-2), factor, axis=-1)
