"""A guide that is followed by what is known of its change, for methods that use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.base import CHANGE_IMAGES, FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.decorator import MultispectralDecorator
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]


def tell_change(scene: FusionScene, method: FusionMethod) -> tuple[FusionScene, FusionMethod]:
    """Return a scene whose guide has its change behind it, and the fitted method for it.

    Both are as they are where nothing changed, and for methods that have no use for it.
    """
    if scene.change is None:
        return scene, method
    aware = method.change_aware()
    if aware is None:
        return scene, method
    return replace(scene, msi=ToldMsi(scene.msi, scene.msi_block, scene.change)), aware


class ToldMsi(MultispectralDecorator):
    """A multispectral product with more bands: what is known of its change under the scene, 0 elsewhere."""

    def __init__(self, product: MultispectralProduct, place: Slice2D, change: SpilledImages) -> None:
        super().__init__(product)
        self._place, self._change = place, change

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in reading order."""
        return (*self._product.band_names, *(f"change {number + 1}" for number in range(CHANGE_IMAGES)))

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Cut out a window."""
        measured = len(self._product.band_names)
        told = np.zeros((CHANGE_IMAGES, *block.shape), np.float32)
        place, inside = self._place, self._place.intersect(block)
        if inside is not None:
            part = (
                slice(inside.row0 - block.row0, inside.row1 - block.row0),
                slice(inside.col0 - block.col0, inside.col1 - block.col0),
            )
            local = Slice2D(
                inside.row0 - place.row0, inside.row1 - place.row0, inside.col0 - place.col0, inside.col1 - place.col0
            )  # fmt: skip
            told[:, *part] = self._change.read(local, list(range(CHANGE_IMAGES)))
        both = np.concatenate([self._product.read(block, list(range(measured))), told])
        # Else what stands in for bands that are missing would be made of the change.
        both[:, ~np.isfinite(both[:measured]).all(axis=0)] = np.nan
        return both if bands is None else both[list(bands)]
