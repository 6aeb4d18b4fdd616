"""Rasters that belong to a cube and lie beside it: checked, published and replaced together with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.shutil import copy as copy_raster

from hsfuse._version import __version__
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.gdal import gdal_name

_LOOK_BYTES = 1 << 16
_TILE_PX = 256


@dataclass(frozen=True)
class LayerFile:
    """A raster beside a cube.

    Attributes
    ----------
    key
        Name of its asset in STAC.
    suffix
        What takes the place of the cube's suffix.
    title
        What it is.
    software
        Beginning of the name of its maker, by which it is told from other people's files.
    """

    key: str
    suffix: str
    title: str
    software: str

    def path(self, cube: Path) -> Path:
        """Name of the layer of a cube."""
        return cube.with_suffix("").with_name(cube.with_suffix("").name + self.suffix)

    def is_at(self, path: Path) -> bool:
        """Whether such a layer of hsfuse's lies at a path."""
        try:
            with path.open("rb") as stream:
                head = stream.read(_LOOK_BYTES)
        except OSError:
            return False
        return head[:2] in (b"II", b"MM") and self.software.encode() in head


DATE_MAP = LayerFile("dates", ".dates.tif", "Date of the multispectral image that each pixel shows", "hsfuse date map")
KNOWN_LAYERS = (DATE_MAP,)
"""All layers that hsfuse may have left beside an older cube."""


def is_layer(path: Path) -> bool:
    """Whether a file is a layer of hsfuse's."""
    return any(layer.is_at(path) for layer in KNOWN_LAYERS)


@dataclass(frozen=True)
class LayerBand:
    """A band of a layer: its name, and what its values mean as text."""

    name: str
    meaning: str = ""


def write_layer(
    path: Path,
    layer: LayerFile,
    grid: Grid,
    samples: Callable[[Slice2D], NDArray[np.int16]],
    bands: Sequence[LayerBand],
    nodata: int,
) -> None:
    """Write a layer as a cloud optimised GeoTIFF whose overviews hold samples that occur.

    Parameters
    ----------
    path
        The file, whose folder is the caller's own.
    layer
        What it is.
    grid
        Where it lies.
    samples
        Gives those of full-width rows, shape (band, row, col).
    bands
        One for each band.
    nodata
        Sample without a value.
    """
    plain = path.with_name(path.name + ".plain.tif")
    creation = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": len(bands), "dtype": "int16",
        "crs": grid.crs, "transform": grid.transform, "nodata": nodata, "tiled": True, "blockxsize": _TILE_PX,
        "blockysize": _TILE_PX, "compress": "deflate", "interleave": "band",
    }  # fmt: skip
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"):
            with rasterio.open(gdal_name(plain), "w", **creation) as dataset:
                for block in grid.row_blocks(_TILE_PX):
                    dataset.write(samples(block), window=block.window)
                for number, band in enumerate(bands, start=1):
                    dataset.set_band_description(number, band.name)
                    if band.meaning:
                        dataset.update_tags(number, values=band.meaning)
                dataset.update_tags(TIFFTAG_SOFTWARE=f"{layer.software} {__version__}")
            copy_raster(
                gdal_name(plain), gdal_name(path), driver="COG", compress="DEFLATE", resampling="NEAREST",
                blocksize=str(_TILE_PX),
            )  # fmt: skip
    finally:
        plain.unlink(missing_ok=True)
