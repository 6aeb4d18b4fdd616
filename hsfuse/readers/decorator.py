"""Decorators of multispectral products: objects that show a product with something changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct, ProductInfo
from hsfuse.spectral import SpectralResponse


class MultispectralDecorator(MultispectralProduct):
    """Shows a product as it is, and closes it; subclasses change what they are for.

    What a product need not offer (dates, reading ahead, SWIR bands and so on) is not handed on: a subclass that shows
    other pixels has to say what that means for them.

    Parameters
    ----------
    product
        The product.
    """

    def __init__(self, product: MultispectralProduct) -> None:
        self._product = product

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._product.info

    @property
    def grid(self) -> Grid:
        """Grid of the product."""
        return self._product.grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in reading order."""
        return self._product.band_names

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Spectral responses in reading order; None when unknown."""
        return self._product.responses

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data."""
        return self._product.read(block, bands)

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud, by the product's mask."""
        return self._product.cloud(block)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classification of the product."""
        return self._product.classes(block)

    def close(self) -> None:
        """Close the product."""
        self._product.close()
