"""A date beside a composed image: hidden where it is what that image shows already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsfuse.grid import Slice2D
from hsfuse.masks import BoolArray
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.weights import DateWeights, shares


class PartnerDate(MultispectralDecorator):
    """A date on the grid of a composed image.

    Parameters
    ----------
    image
        Its tiles.
    weights
        Of the dates that the image is composed of.
    number
        Its place among these; None: it is none of them, and is closed with this object.
    """

    def __init__(self, image: Sentinel2Mosaic, weights: DateWeights, number: int | None) -> None:
        super().__init__(image)
        self._image, self._weights, self._number = image, weights, number

    @property
    def sources(self) -> tuple[Path, ...]:
        """Paths of its products."""
        return self._image.sources

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels under cloud, and those that the composed image shows by this date: its noise is in both."""
        hidden = self._image.cloud(block)
        if self._number is None:
            return hidden
        same = np.asarray(shares(self._weights.read(block))[self._number] > 0.0, np.bool_)
        return same if hidden is None else hidden | same

    def close(self) -> None:
        """Close the tiles, unless they are the composed image's."""
        if self._number is None:
            self._image.close()
