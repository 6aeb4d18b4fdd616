"""A multispectral product that shows a repaired guide where the scene is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]


class RepairedMsi(MultispectralDecorator):
    """A multispectral product whose pixels under the scene are those of the repaired guide."""

    def __init__(self, product: MultispectralProduct, place: Slice2D, pixels: FloatCube) -> None:
        super().__init__(product)
        self._place, self._pixels = place, SpilledImages(pixels)

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Cut out a window; what lies outside the scene is read from the product."""
        place = self._place
        inside = place.intersect(block)
        index = list(range(self._pixels.shape[0])) if bands is None else list(bands)
        if inside == block:
            return self._pixels.read(self._local(block), index)
        found = self._product.read(block, bands)
        if inside is not None:
            part = (
                slice(inside.row0 - block.row0, inside.row1 - block.row0),
                slice(inside.col0 - block.col0, inside.col1 - block.col0),
            )
            found[:, *part] = self._pixels.read(self._local(inside), index)
        return found

    def _local(self, block: Slice2D) -> Slice2D:
        top, left = self._place.row0, self._place.col0
        return Slice2D(block.row0 - top, block.row1 - top, block.col0 - left, block.col1 - left)
