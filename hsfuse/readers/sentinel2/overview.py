"""Decimated views of Sentinel-2 images, from the lower resolutions that JPEG 2000 files carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D
from hsfuse.masks import dilate
from hsfuse.readers.base import FloatCube
from hsfuse.readers.placement import Placement
from hsfuse.readers.sentinel2.images import LayerPool, finish, interpolate, stored_levels

_STRIP_PX = 2048

ReadBand = Callable[[DatasetReader, str, Slice2D, NDArray[np.float32]], None]
"""Fills a plane with reflectance of a band at full resolution; runs in the layer's thread."""
Scale = Callable[[NDArray[np.unsignedinteger], str, NDArray[np.float32]], None]
"""Turns stored numbers of a band into reflectance."""


class OverviewReader:
    """Reads decimated views of one tile.

    Parameters
    ----------
    pool
        Open image layers.
    placements
        Where each layer lies on the fine grid.
    read_band
        Reads a band at full resolution.
    scale
        Scales stored numbers.
    """

    def __init__(self, pool: LayerPool, placements: Mapping[str, Placement], read_band: ReadBand, scale: Scale) -> None:
        self._pool, self._placements = pool, placements
        self._read_band, self._scale = read_band, scale

    def read(self, names: Sequence[str], block: Slice2D, factor: int) -> FloatCube:
        """Read bands decimated by a power of two, shape (band, rows // factor, cols // factor).

        Raises
        ------
        UsageError
            The factor is no power of two, or larger than the block.
        """
        rows, cols = block.shape[0] // factor, block.shape[1] // factor
        if factor < 2 or factor & (factor - 1) or min(rows, cols) < 1:
            raise UsageError(f"A block of {block.shape[0]} x {block.shape[1]} pixels cannot be decimated by {factor}.")
        cube = np.empty((len(names), rows, cols), np.float32)
        futures: list[Future[None]] = []
        for band, plane in zip(names, cube, strict=True):
            ratio = self._placements[band].ratio
            stored = self._pool.submit(band, stored_levels, pixels=False).result()
            level = max((i for i, step in enumerate(stored) if step * ratio <= factor), default=None)
            # From the lowest stored resolution that is fine enough, or from full resolution.
            inner = 1 if level is None else stored[level] * ratio

            def task(
                file: DatasetReader, band: str = band, plane: NDArray[np.float32] = plane, inner: int = inner
            ) -> None:
                self._read_decimated(file, band, block, factor, inner, plane)

            futures.append(self._pool.submit(band, task, level=level))
        finish(futures)
        return cube

    def _read_decimated(
        self, file: DatasetReader, band: str, block: Slice2D, factor: int, inner: int, plane: NDArray[np.float32]
    ) -> None:
        """Fill ``plane`` strip by strip: decimated by ``inner`` as stored, by the rest as a block mean."""
        rows, cols = plane.shape
        rest = factor // inner
        lines = max(1, _STRIP_PX // factor)
        for row in range(0, rows, lines):
            count = min(lines, rows - row)
            start = block.row0 + row * factor
            part = Slice2D(start, start + count * factor, block.col0, block.col0 + cols * factor)
            fine = np.empty((count * rest, cols * rest), np.float32)
            if inner == 1:
                self._read_band(file, band, part, fine)
            else:
                self._read_stored_level(file, band, part, inner, fine)
            plane[row : row + count] = fine.reshape(count, rest, cols, rest).mean(axis=(1, 3))

    def _read_stored_level(
        self, file: DatasetReader, band: str, block: Slice2D, factor: int, plane: NDArray[np.float32]
    ) -> None:
        place = self._placements[band]
        step = factor // place.ratio
        # Wavelet samples lie on the first pixel of each group of `step`, not on its middle: interpolate to the middle.
        at = [
            ((start - origin + factor * (np.arange(count) + 0.5)) / place.ratio - 0.5) / step
            for start, origin, count in zip(
                (block.row0, block.col0), (place.row0, place.col0), plane.shape, strict=True
            )
        ]
        first = [max(int(np.floor(p[0])) - 1, 0) for p in at]
        last = [min(int(np.floor(p[-1])) + 3, size) for p, size in zip(at, file.shape, strict=True)]
        window = Slice2D(first[0], last[0], first[1], last[1]).window
        samples = np.empty((last[0] - first[0], last[1] - first[1]), np.float32)
        self._scale(file.read(1, window=window), band, samples)
        # The wavelet's filter reaches two samples, so that far nodata rings into the data.
        samples[dilate(np.isnan(samples), 2)] = np.nan
        plane[:] = interpolate(samples, at[0] - first[0], at[1] - first[1])
