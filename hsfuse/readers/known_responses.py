"""A multispectral product with other spectral responses than its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.readers.source_dates import SourceDate
from hsfuse.readers.stored import StoredAs
from hsfuse.spectral import SpectralResponse


class KnownResponses(MultispectralDecorator):
    """A product whose responses were found out elsewhere, such as on the scene.

    Parameters
    ----------
    product
        Everything else comes from it, and it is closed with this.
    responses
        In the order of its bands.
    """

    def __init__(self, product: MultispectralProduct, responses: Sequence[SpectralResponse]) -> None:
        super().__init__(product)
        self._responses = tuple(responses)

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """The responses that were given."""
        return self._responses

    @property
    def offers_band_choice(self) -> bool:
        """As the product."""
        return self._product.offers_band_choice

    @property
    def sources(self) -> tuple[Path, ...]:
        """As the product."""
        return self._product.sources

    @property
    def dates(self) -> tuple[SourceDate, ...]:
        """As the product."""
        return self._product.dates

    def date_numbers(self, block: Slice2D) -> NDArray[np.uint8]:
        """As the product."""
        return self._product.date_numbers(block)

    @property
    def stored(self) -> StoredAs | None:
        """As the product."""
        return self._product.stored

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Fetch ahead, as the product does."""
        self._product.read_ahead(block, bands)

    def swir_reference(self) -> MultispectralProduct | None:
        """Open the product with its SWIR bands."""
        return self._product.swir_reference()
