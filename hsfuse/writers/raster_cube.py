"""Finished products that GDAL reads, as reflectance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.grid import Slice2D
from hsfuse.readers.gdal import gdal_name
from hsfuse.writers.provenance import IDENTITY_TAG


class RasterCube:
    """A raster file as a :class:`~hsfuse.writers.format.CubeReader`, through its overviews where it has any.

    Parameters
    ----------
    path
        Any raster that GDAL reads. Its scale is GDAL's, else ENVI's ``reflectance scale factor``, else 1.

    Raises
    ------
    OutputError
        The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        import rasterio
        from rasterio.errors import RasterioError

        self._path = path
        try:
            self._dataset = rasterio.open(gdal_name(path))
        except (RasterioError, OSError) as error:
            raise OutputError(f"The product {path} cannot be read: {error}.") from error
        self._scale, self._offset = self._scaling()

    def _scaling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scales = np.array(self._dataset.scales, dtype=np.float64)
        offsets = np.array(self._dataset.offsets, dtype=np.float32)
        if np.all(scales == 1.0) and not offsets.any():
            # Both together would scale twice.
            scales /= float(self._dataset.tags(ns="ENVI").get("reflectance_scale_factor", 1.0))
        return scales.astype(np.float32), offsets

    @property
    def shape(self) -> tuple[int, int, int]:
        """(band, row, col)."""
        return int(self._dataset.count), int(self._dataset.height), int(self._dataset.width)

    @property
    def identity(self) -> str:
        """Identity of the run that made the product, empty where there is none."""
        return str(self._dataset.tags().get(IDENTITY_TAG) or "")

    def read(
        self, bands: Sequence[int] | None, block: Slice2D, out_shape: tuple[int, int] | None = None
    ) -> NDArray[np.float32]:
        """Reflectance of bands (all when None) of a block, averaged down to ``out_shape``; NaN = no data.

        Raises
        ------
        OutputError
            The file is damaged.
        """
        from rasterio.enums import Resampling
        from rasterio.errors import RasterioError

        chosen = list(range(self._dataset.count)) if bands is None else [int(band) for band in bands]
        shape = (len(chosen), *(out_shape or block.shape))
        try:
            stored = self._dataset.read(
                [band + 1 for band in chosen], window=block.window, out_shape=shape, masked=True,
                resampling=Resampling.average,
            )  # fmt: skip
        except (RasterioError, OSError) as error:
            raise OutputError(f"The product {self._path} cannot be read: {error}.") from error
        cube: NDArray[np.float32] = stored.astype(np.float32).filled(np.nan)
        cube *= self._scale[chosen, None, None]
        if self._offset.any():
            cube += self._offset[chosen, None, None]
        return cube

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
