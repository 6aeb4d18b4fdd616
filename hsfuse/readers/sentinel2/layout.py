"""How Sentinel-2 tiles are laid out in a mosaic: how much each covers, and on which grid they meet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rasterio.crs import CRS

from hsfuse.errors import OverlapError
from hsfuse.grid import Bounds, Grid, Slice2D
from hsfuse.readers.sentinel2.product import Sentinel2Product

FOOTPRINT_MARGIN_M = 5000.0
"""How far the mosaic reaches beyond the footprint: room for the largest shift that co-registration searches."""

_COVERAGE_FACTOR = 16
_STRIP_ROWS = 1024


def coverage(product: Sentinel2Product, bounds: Bounds | None, crs: CRS) -> tuple[float, float]:
    """Area (m²) of a product with data, and without cloud, under a footprint.

    Data are counted in a low resolution that the images carry, to about a pixel of 160 m.
    """
    grid = product.grid
    block = grid.full
    if bounds is not None:
        rows, cols = (max(1, round(side / grid.pixel_m)) for side in _sides(bounds))
        footprint = Grid.from_origin(crs, bounds.left, bounds.top, grid.pixel_m, rows, cols)
        try:
            block = grid.block_of(footprint.bounds_in(grid.crs))
        except OverlapError:
            return 0.0, 0.0
    factor = _COVERAGE_FACTOR
    while factor > 2 and factor * 8 > min(block.shape):
        factor //= 2
    if min(block.shape) < factor:
        share = float(np.isfinite(product.read(block, (0,))).mean())
    else:
        share = float(np.isfinite(product.read_overview(block, factor, (0,))).mean())
    area = share * block.shape[0] * block.shape[1] * grid.pixel_m**2
    cloudy = total = 0
    for row0 in range(block.row0, block.row1, _STRIP_ROWS):
        cloud = product.cloud(Slice2D(row0, min(row0 + _STRIP_ROWS, block.row1), block.col0, block.col1))
        if cloud is not None:
            cloudy, total = cloudy + int(cloud.sum()), total + cloud.size
    return area, area * (1.0 - cloudy / total) if total else area


def _sides(bounds: Bounds) -> tuple[float, float]:
    return bounds.top - bounds.bottom, bounds.right - bounds.left


def pixel_offset(own: Grid, mosaic: Grid) -> tuple[int, int] | None:
    """Mosaic pixel (row, col) of a tile's corner; None when the tile has to be warped."""
    if not mosaic.aligned_with(own):
        return None
    block = own.block_in(mosaic)
    return block.row0, block.col0


def mosaic_grid(
    products: Sequence[Sentinel2Product],
    base: Sentinel2Product,
    target_crs: CRS | None,
    bounds: Bounds | None,
    crs: CRS,
) -> Grid:
    """Pixel edges of the base tile (or multiples of the pixel size in another system) over all tiles."""
    wanted = target_crs or base.grid.crs
    boxes = [product.grid.bounds_in(wanted) for product in products]
    box = Bounds(
        min(b.left for b in boxes), min(b.bottom for b in boxes), max(b.right for b in boxes), max(b.top for b in boxes)
    )
    if bounds is not None:
        pixel = base.grid.pixel_m
        rows, cols = (max(1, round(side / pixel)) for side in _sides(bounds))
        near = Grid.from_origin(crs, bounds.left, bounds.top, pixel, rows, cols).bounds_in(wanted)
        box = box.intersect(near.buffer(FOOTPRINT_MARGIN_M)) or box
    pixel = base.grid.pixel_m
    origin_x, origin_y = (base.grid.bounds.left, base.grid.bounds.top) if wanted == base.grid.crs else (0.0, 0.0)
    tolerance = 1e-6
    left = math.floor((box.left - origin_x) / pixel + tolerance)
    right = math.ceil((box.right - origin_x) / pixel - tolerance)
    top = math.ceil((box.top - origin_y) / pixel - tolerance)
    bottom = math.floor((box.bottom - origin_y) / pixel + tolerance)
    return Grid.from_origin(wanted, origin_x + left * pixel, origin_y + top * pixel, pixel, top - bottom, right - left)
