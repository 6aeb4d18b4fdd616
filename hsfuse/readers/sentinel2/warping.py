"""Bringing tiles of another UTM zone to the pixels of a mosaic, window by window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D

RIM_PX = 2
"""How far a cubic kernel reaches beside nodata."""
_MARGIN_PX = 4
_PIECE_PX = 512


def block_under(own: Grid, target: Grid) -> Slice2D | None:
    """Block of a tile's own pixels that a grid in another reference system needs; None when there is none."""
    box = target.bounds_in(own.crs).buffer(_MARGIN_PX * own.pixel_m)
    try:
        return own.block_of(box)
    except OverlapError:
        return None


def within(inner: Slice2D, outer: Slice2D) -> tuple[slice, slice]:
    """Index of a block in an array that covers a larger block."""
    return (
        slice(inner.row0 - outer.row0, inner.row1 - outer.row0),
        slice(inner.col0 - outer.col0, inner.col1 - outer.col0),
    )


def warp(
    values: NDArray[np.float32] | NDArray[np.uint8],
    own: Grid,
    source: Slice2D,
    target: Grid,
    part: Slice2D,
    out: NDArray[np.float32] | NDArray[np.uint8],
    fill: float,
    kernel: Resampling,
) -> None:
    """Warp the pixels of a tile's block to a part of another grid.

    Parameters
    ----------
    values
        Pixels of ``source``, a block of the grid ``own``, shape (..., row, col); ``fill`` without data.
    target, part
        Grid to warp to, and the block of it that is wanted, which may reach outside.
    out
        Filled; shape (..., row, col) of ``part``.
    fill
        Value without data.
    kernel
        Interpolation.
    """
    for row0 in range(part.row0, part.row1, _PIECE_PX):
        for col0 in range(part.col0, part.col1, _PIECE_PX):
            # GDAL approximates the transformation along a line of its target; in pieces of this length the error is
            # far below a hundredth of a pixel.
            piece = Slice2D(row0, min(row0 + _PIECE_PX, part.row1), col0, min(col0 + _PIECE_PX, part.col1))
            under = block_under(own, target.crop(piece))
            if under is None:
                continue
            reproject(
                values[..., *within(under, source)],
                out[..., *within(piece, part)],
                src_transform=own.crop(under).transform,
                src_crs=own.crs,
                src_nodata=fill,
                dst_transform=target.crop(piece).transform,
                dst_crs=target.crs,
                dst_nodata=fill,
                resampling=kernel,
                # Zones differ by rotation only; guessed from a small window, the scale would blur it.
                XSCALE=1,
                YSCALE=1,
            )
