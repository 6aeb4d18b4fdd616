"""Arrays that are already aligned as a scene: the same engine without products."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.spectral import BandTable, SpectralResponse

FloatCube = NDArray[np.float32]


class ArrayProduct(HyperspectralProduct, MultispectralProduct):
    """An array behind both product protocols.

    Parameters
    ----------
    cube
        Reflectance, shape (band, row, col), NaN where there is none.
    grid
        Where it lies.
    bands
        Its bands.
    responses
        Spectral responses, when it serves as an MSI.
    start
        Acquisition time.
    name
        What messages call it.
    """

    def __init__(
        self,
        cube: FloatCube,
        grid: Grid,
        bands: BandTable,
        responses: tuple[SpectralResponse, ...] | None = None,
        start: datetime | None = None,
        name: str = "array",
    ) -> None:
        self.cube, self.start, self._name = cube, start, name
        self._grid, self._bands, self._responses = grid, bands, responses

    @property
    def grid(self) -> Grid:
        """Grid of the array."""
        return self._grid

    @property
    def bands(self) -> BandTable:
        """Bands of the array."""
        return self._bands

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Spectral responses; None when unknown."""
        return self._responses

    @property
    def info(self) -> ProductInfo:
        """Say that the product is an array."""
        return ProductInfo(self._name, "array", "", Path(), self.start)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the responses; numbers where there are none."""
        if self.responses is not None and len(self.responses) == self.cube.shape[0]:
            return tuple(response.name for response in self.responses)
        return tuple(f"B{i + 1:02d}" for i in range(self.cube.shape[0]))

    def read(self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None) -> FloatCube:
        """Cut out a window."""
        part = self.cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[np.asarray(bands)], dtype=np.float32)

    def valid(self, block: Slice2D) -> NDArray[np.bool_]:
        """Mark pixels with any measurement."""
        window: NDArray[np.bool_] = np.any(np.isfinite(self.cube[(slice(None), *block.slices)]), axis=0)
        return window

    def error_codes(self, block: Slice2D, bands: Any = None) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def cloud(self, block: Slice2D) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def classes(self, block: Slice2D) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def close(self) -> None:
        """Do nothing."""


def array_scene(
    hsi: FloatCube,
    msi: FloatCube,
    bands: BandTable,
    responses: Sequence[SpectralResponse] | None,
    ratio: int,
    psf: Psf,
    srf: NDArray[np.float64] | None = None,
    partners: Sequence[FloatCube] = (),
) -> FusionScene:
    """Put two aligned arrays (band, row, col) on nested grids; NaN marks nodata.

    ``srf`` are weights of shape (msi band, band) where the responses are not known; ``partners`` are further dates of
    ``msi``, of its shape.
    """
    fine = Grid.from_origin(CRS.from_epsg(32631), 500_000.0, 5_000_000.0, 10.0, *msi.shape[1:])
    coarse = fine.coarsened(ratio)
    known = tuple(responses) if responses is not None else None
    # What the MSI's bands are is in its responses; without them nobody asks.
    table = BandTable.make([r.centre_nm for r in known] if known else np.linspace(450.0, 900.0, len(msi)))
    dates = tuple(
        ArrayProduct(cube, fine, table, known, name=f"partner {number}")
        for number, cube in enumerate(partners, start=1)
    )
    return FusionScene(
        ArrayProduct(hsi, coarse, bands), ArrayProduct(msi, fine, table, known), np.arange(len(bands)),
        Resampler(coarse, coarse, DisplacementField.zero()), coarse, ratio, psf, srf=srf,
        partners=dates,
    )  # fmt: skip
