"""The panchromatic image of a PRISMA product, as a guide of one band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, MultispectralProduct, ProductInfo
from hsfuse.sensors.prisma import PAN_NAME, pan_response
from hsfuse.spectral import SpectralResponse

_ROWS = 256
_SAMPLED = 9


class PrismaPan(MultispectralProduct):
    """The 5 m image of the camera that looks through the same telescope at the same time.

    Parameters
    ----------
    info
        Facts about the image.
    grid
        Its grid.
    read
        Reads reflectance of a block, float32 (row, col), NaN where there is no data; the file belongs to the product.

    Raises
    ------
    OverlapError
        It holds nothing but fill.
    """

    def __init__(self, info: ProductInfo, grid: Grid, read: Callable[[Slice2D], NDArray[np.float32]]) -> None:
        self._info, self._grid, self._read = info, grid, read
        self._responses = (pan_response(),)
        self._refuse_empty()

    def _refuse_empty(self) -> None:
        """Raise when the image shows nothing: all fill, or one value everywhere."""
        height = self._grid.height
        sample = np.unique(np.linspace(0, height - 1, _SAMPLED).astype(int))
        # From the middle outwards: the corners of an L2D image are fill.
        rows = [slice(int(r), int(r) + 1) for r in sorted(sample, key=lambda r: abs(2 * int(r) - height))]
        rows += [slice(top, min(top + _ROWS, height)) for top in range(0, height, _ROWS)]
        first: float | None = None
        for part in rows:
            seen = self._read(Slice2D(part.start, part.stop, 0, self._grid.width))
            values = seen[np.isfinite(seen)]
            if not values.size:
                continue
            first = float(values[0]) if first is None else first
            if np.any(values != first):
                return
        raise OverlapError(
            f"{self._info.path}: the panchromatic image is empty: every pixel is fill or has the same value.",
            hint="Use Sentinel-2 as the guide (--guide s2), or order the product again.",
        )

    @property
    def info(self) -> ProductInfo:
        """Facts about the product that it belongs to."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the image: that of the cube, six times finer."""
        return self._grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """The one band."""
        return (PAN_NAME,)

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Nominal response, marked as assumed: products carry none."""
        return self._responses

    @property
    def sources(self) -> tuple[Path, ...]:
        """None of its own: the file is that of the product."""
        return ()

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance, float32 (1, row, col), NaN where there is no data."""
        cube = self._read(block)[None]
        return cube if bands is None else cube[list(bands)]

    def cloud(self, block: Slice2D) -> BoolArray | None:  # noqa: ARG002
        """None: L2D products have no cloud mask."""
        return None

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """None: there is no scene classification."""
        return None

    def close(self) -> None:
        """Nothing: the file belongs to the product."""
