"""Where Sentinel-2 image layers lie: on which grid, and how coarse pixels reach the 10 m grid."""

from __future__ import annotations

from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers.placement import Placement
from hsfuse.sensors.sentinel2 import RESOLUTION_M

_DAMAGED = "The product seems to be damaged or incomplete; download or unpack it again."


def image_geometry(file: DatasetReader) -> tuple[Grid | None, tuple[int, int]]:
    """Grid that an image itself claims (None when it carries no georeference), and its shape."""
    shape = (file.height, file.width)
    if file.crs is None or file.transform.is_identity:
        return None, shape
    return Grid(file.crs, file.transform, *shape), shape


def check_geometry(own: Grid | None, shape: tuple[int, int], tile: Grid, layer: str, name: str) -> Grid:
    """Compare an image's own grid with the tile's metadata; return the grid to use.

    An image that covers a part of its tile on the tile's pixel edges is a legitimate cut-out; everything else that
    differs is an error, because one of the two statements is wrong and nobody knows which.
    """
    if own is None:
        ratio = tile.width / shape[1]
        if round(ratio) not in (1, 2, 6) or (-(-tile.height // round(ratio)), -(-tile.width // round(ratio))) != shape:
            raise InputError(
                f"The image of {layer} in {name} has {shape[0]} x {shape[1]} pixels, which does not fit the tile's "
                f"{tile.height} x {tile.width}.",
                hint=_DAMAGED,
            )
        return Grid.from_origin(tile.crs, tile.bounds.left, tile.bounds.top, tile.pixel_m * round(ratio), *shape)
    placement = Placement.of(own, tile) if own.crs == tile.crs else None
    expected = RESOLUTION_M.get(layer)
    margin = own.pixel_m  # sizes that are no multiple of the pixel are rounded up
    inside = own.bounds.intersect(tile.bounds.buffer(margin)) == own.bounds
    if placement is None or not inside or (expected is not None and placement.ratio != expected // 10):
        raise InputError(
            f"The image of {layer} in {name} lies at {own.bounds.left:.0f}, {own.bounds.top:.0f} "
            f"({own.crs.to_string()}, {own.pixel_m:g} m pixels), which contradicts the tile's metadata "
            f"({tile.bounds.left:.0f}, {tile.bounds.top:.0f}, {tile.crs.to_string()}).",
            hint="The product was altered or mixed up; use the original.",
        )
    return own
