"""What simulated EnMAP and DESIS products share: a GeoTIFF of all bands, quality layers beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter

from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.readers.base import ERROR_INVALID_L1
from hsfuse.simulate.blocks import CubeBlock, check_block
from hsfuse.spectral import BandTable

Numbers = tuple[int, NDArray[np.integer]]
"""Rows of stored numbers: the first of them, and an array (band, row, col)."""
OrthoLevel = Literal["L2A", "L1C"]
REFLECTANCE_STEP = 1e-4


@dataclass(frozen=True)
class PackageLayout:
    """Everything about a simulated EnMAP or DESIS product except its pixels.

    Attributes
    ----------
    grid
        Map grid that the product claims.
    bands
        All bands, in file order.
    level
        ``L2A``: reflectance of the surface; ``L1C``: radiance of the top of the atmosphere.
    start
        Acquisition time (UTC).
    sun_zenith_deg, sun_azimuth_deg, view_zenith_deg, across_deg
        Angles at the scene's centre; the last is the view angle across the flight direction.
    gain, offset
        From stored numbers to the level's unit, for each band; None: reflectance x 10000 without an offset.
    cover_percent
        Shares that the metadata state, by kind such as ``cloud``.
    nodata
        Stored number of pixels that were not imaged.
    cog
        Name the images as cloud-optimised ones.
    """

    grid: Grid
    bands: BandTable
    level: OrthoLevel = "L2A"
    start: datetime = datetime(2024, 6, 21, 10, 30, 12, 345678, tzinfo=UTC)
    sun_zenith_deg: float = 32.5
    sun_azimuth_deg: float = 148.0
    view_zenith_deg: float = 4.2
    across_deg: float = -3.9
    gain: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None
    cover_percent: Mapping[str, float] | None = None
    nodata: int = -32768
    cog: bool = False

    @property
    def gains(self) -> NDArray[np.float64]:
        """Gain of each band."""
        return np.full(len(self.bands), REFLECTANCE_STEP) if self.gain is None else self.gain

    @property
    def offsets(self) -> NDArray[np.float64]:
        """Offset of each band."""
        return np.zeros(len(self.bands)) if self.offset is None else self.offset

    def cover(self, kind: str) -> str:
        """Share of a kind, as the metadata write it."""
        return f"{(self.cover_percent or {}).get(kind, 0.0):.0f}"

    def corners(self) -> list[tuple[str, float, float]]:
        """Name, longitude and latitude of the corners and the centre."""
        box = self.grid.bounds
        places = {
            "upper_left": (box.left, box.top), "upper_right": (box.right, box.top),
            "lower_left": (box.left, box.bottom), "lower_right": (box.right, box.bottom),
            "center": ((box.left + box.right) / 2, (box.bottom + box.top) / 2),
        }  # fmt: skip
        x, y = (np.array([place[axis] for place in places.values()]) for axis in (0, 1))
        lon, lat = reproject_xy(self.grid.crs, CRS.from_epsg(4326), x, y)
        return [(name, float(a), float(b)) for name, a, b in zip(places, lon, lat, strict=True)]

    def encode(self, blocks: Iterable[CubeBlock], marks: Marks) -> Iterator[Numbers]:
        """Turn observed blocks into stored numbers, and keep what the quality layers are to say of them."""
        gain, offset = (part.astype(np.float32)[:, None, None] for part in (self.gains, self.offsets))
        for block in blocks:
            span = check_block(block, len(self.bands), self.grid.shape)
            good = np.isfinite(block.reflectance)
            numbers = np.rint((np.where(good, block.reflectance, 0.0) - offset) / gain)
            stored = np.clip(numbers, -32767, 32767).astype(np.int16)
            stored[~good] = self.nodata
            marks.keep(span, block)
            yield span.start, stored


def tag(name: str, *content: object, **attributes: str) -> str:
    """Write an XML element around its content: elements already written, or one value."""
    noted = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{noted}>{''.join(map(str, content))}</{name}>"


def tags(**values: object) -> str:
    """Write one XML element for each name and value."""
    return "".join(tag(name, value) for name, value in values.items())


class Marks:
    """What the quality layers of a product mark, gathered while its rows are written.

    Attributes
    ----------
    cloud, shadow
        Shape (row, col).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.cloud, self.shadow = (np.zeros((1, *shape), np.uint8) for _ in range(2))
        self.defects: list[tuple[int, NDArray[np.uint8]]] = []

    def keep(self, rows: slice, block: CubeBlock) -> None:
        """Keep the masks of a block."""
        if block.cloud is not None and block.shadow is not None:
            self.cloud[0, rows], self.shadow[0, rows] = block.cloud, block.shadow
        if block.error_codes is not None:
            bad = (block.error_codes & ERROR_INVALID_L1) != 0
            if bad.any():
                self.defects.append((rows.start, np.packbits(bad, axis=0)))

    def defect_rows(self, bands: int) -> Iterator[Numbers]:
        """Blocks of the layers of defective samples, uint8 (band, row, col); rows without any are left out."""
        for row, packed in self.defects:
            yield row, np.unpackbits(packed, axis=0, count=bands)


def write_layer(
    path: Path, blocks: Iterable[Numbers], grid: Grid, bands: int, dtype: str, *, nodata: int | None = None, **more: Any
) -> Path:
    """Write a GeoTIFF from blocks of whole rows; rows that no block covers are 0.

    Raises
    ------
    UsageError
        A block does not fit.
    OutputError
        The file cannot be written.
    """
    with ExitStack() as stack:
        try:
            out: DatasetWriter = stack.enter_context(
                rasterio.open(
                    path, "w", driver="GTiff", height=grid.height, width=grid.width, count=bands, dtype=dtype,
                    crs=grid.crs, transform=grid.transform, nodata=nodata, compress="lzw", bigtiff="if_safer", **more,
                )
            )  # fmt: skip
            for row, values in blocks:
                count, rows, cols = values.shape
                if (count, cols) != (bands, grid.width) or not 0 <= row <= grid.height - rows:
                    raise UsageError(f"Rows of shape {values.shape} at row {row} do not fit the image {path.name}.")
                out.write(values, window=Slice2D(row, row + rows, 0, cols).window)
        except (RasterioError, OSError) as error:
            raise OutputError(f"{path}: the simulated image could not be written ({error}).") from error
    return path
