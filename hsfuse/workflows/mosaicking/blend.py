"""Weighted means of overlapping cubes, strip by strip of the mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject
from scipy import ndimage

from hsfuse.grid import Bounds, Grid, Slice2D
from hsfuse.readers.base import BoolArray, FloatCube, HyperspectralProduct

_BANDS_AT_ONCE = 10
_AROUND_PX = 2
"""What bilinear resampling reaches beyond a pixel."""


@dataclass(frozen=True)
class OpenCube:
    """An open cube, and which of its bands are the mosaic's."""

    path: Path
    product: HyperspectralProduct
    bands: NDArray[np.int64]


def fits(grid: Grid, target: Grid) -> bool:
    """Whether two grids share one lattice of pixels."""
    return grid.crs == target.crs and grid.aligned_with(target)


def blend(cubes: Sequence[OpenCube], grid: Grid, strip: Slice2D, feather_px: int) -> FloatCube:
    """Weighted mean of the cubes in a strip of the mosaic.

    Parameters
    ----------
    cubes
        All cubes.
    grid, strip
        The mosaic, and the part of it that is wanted.
    feather_px
        Distance from a cube's edges and gaps at which its weight is full.

    Returns
    -------
    numpy.ndarray
        Reflectance, float32, shape (band, row, col), NaN where no cube has data.
    """
    parts = [(cube, weight) for cube in cubes if (weight := _weight(cube, grid, strip, feather_px)) is not None]
    count = np.zeros(strip.shape, np.uint16)
    for _, weight in parts:
        count += weight > 0
    for _, weight in parts:
        # What one cube alone holds is copied: times one, by one.
        weight[(count == 1) & (weight > 0)] = 1.0
    blended = np.full((len(cubes[0].bands), *strip.shape), np.nan, np.float32)
    for band0 in range(0, blended.shape[0], _BANDS_AT_ONCE):
        group = slice(band0, band0 + _BANDS_AT_ONCE)
        total = np.zeros_like(blended[group])
        weights = np.zeros_like(total)
        for cube, weight in parts:
            values = _read(cube, grid, strip, cube.bands[group])
            present = np.isfinite(values) & (weight > 0)
            total += np.where(present, values * weight, 0.0)
            weights += np.where(present, weight, 0.0)
        np.divide(total, weights, out=blended[group], where=weights > 0)
    return blended


def _weight(cube: OpenCube, grid: Grid, strip: Slice2D, feather_px: int) -> NDArray[np.float32] | None:
    """Weight of a cube in a strip: rises from its edges and gaps inwards; None where it lies elsewhere."""
    if _source_block(cube, grid, strip, 0) is None:
        return None
    # The nearest gap may lie outside the strip, but no farther than the blending reaches.
    wide = Slice2D(strip.row0 - feather_px, strip.row1 + feather_px, -feather_px, grid.width + feather_px)
    valid: BoolArray = np.isfinite(_read(cube, grid, wide, cube.bands[:1])[0])
    if not valid.any():
        return None
    # Beyond the window nothing is known, and nothing there is nearer than the window's own margin.
    distance = ndimage.distance_transform_edt(valid)
    inner = distance[feather_px:-feather_px, feather_px:-feather_px]
    weight: NDArray[np.float32] = np.clip(inner / feather_px, 0.0, 1.0).astype(np.float32)
    return weight


def _source_block(cube: OpenCube, grid: Grid, block: Slice2D, around_px: int) -> Slice2D | None:
    """Part of a cube under a block of the mosaic's lattice; None where there is none."""
    source = cube.product.grid
    bounds = _bounds(grid, block)
    if not fits(source, grid):
        local = Grid.from_origin(grid.crs, bounds.left, bounds.top, grid.pixel_m, *block.shape)
        bounds = local.bounds_in(source.crs)
    left, _, _, top = source.bounds
    pixel = source.pixel_m
    row0, row1 = (top - bounds.top) / pixel - around_px, (top - bounds.bottom) / pixel + around_px
    col0, col1 = (bounds.left - left) / pixel - around_px, (bounds.right - left) / pixel + around_px
    found = Slice2D(
        max(0, round(np.floor(row0 + 1e-3))), min(source.height, round(np.ceil(row1 - 1e-3))),
        max(0, round(np.floor(col0 + 1e-3))), min(source.width, round(np.ceil(col1 - 1e-3))),
    )  # fmt: skip
    return found if found.row1 > found.row0 and found.col1 > found.col0 else None


def _bounds(grid: Grid, block: Slice2D) -> Bounds:
    """Extent of a block, which may reach beyond the grid."""
    left, _, _, top = grid.bounds
    pixel = grid.pixel_m
    return Bounds(
        left + block.col0 * pixel, top - block.row1 * pixel, left + block.col1 * pixel, top - block.row0 * pixel
    )


def _read(cube: OpenCube, grid: Grid, block: Slice2D, bands: NDArray[np.int64]) -> FloatCube:
    """Bands of a cube on a block of the mosaic's lattice, NaN where the cube is not."""
    out = np.full((len(bands), *block.shape), np.nan, np.float32)
    same = fits(cube.product.grid, grid)
    source = _source_block(cube, grid, block, 0 if same else _AROUND_PX)
    if source is None:
        return out
    values = cube.product.read(source, bands)
    own = cube.product.grid.crop(source)
    bounds = _bounds(grid, block)
    if same:
        row = round((bounds.top - own.bounds.top) / grid.pixel_m)
        col = round((own.bounds.left - bounds.left) / grid.pixel_m)
        out[:, row : row + values.shape[1], col : col + values.shape[2]] = values
        return out
    local = Grid.from_origin(grid.crs, bounds.left, bounds.top, grid.pixel_m, *block.shape)
    reproject(
        values, out, src_crs=own.crs, src_transform=own.transform, src_nodata=np.nan, dst_crs=local.crs,
        dst_transform=local.transform, dst_nodata=np.nan, resampling=Resampling.bilinear,
    )  # fmt: skip
    return out
