"""GeoTIFF: tiles, band by band, with every metadata domain that readers of wavelengths look into."""

from __future__ import annotations

from pathlib import Path

from hsfuse.grid import Grid
from hsfuse.writers.format import BuildOptions, CubeContent, CubeReader, DiskNeed, FormatEntry

SUFFIXES = (".tif", ".tiff")
COMPRESSIONS = ("zstd", "deflate", "lerc", "none")
TILE_PX = 256
_EXPECTED_SHARE = {"zstd": 0.85, "deflate": 0.85, "lerc": 0.6}


def compressed_bytes(raw: int, grid: Grid, compress: str, tile_px: int) -> int:
    """Return an upper estimate of a tiled TIFF's size, without overviews."""
    if compress == "none":
        return whole_tiles(raw, grid, tile_px)
    return int(raw * _EXPECTED_SHARE[compress])


def whole_tiles(raw: int, grid: Grid, tile_px: int) -> int:
    """Bytes of uncompressed tiles: those at the right and lower edge are stored whole."""
    return int(raw * _padded(grid.height, tile_px) * _padded(grid.width, tile_px))


def _padded(length: int, tile: int) -> float:
    return -(-length // tile) * tile / length


def _disk_need(raw: int, grid: Grid, compress: str) -> DiskNeed:
    product = compressed_bytes(raw, grid, compress, TILE_PX)
    return DiskNeed(product, product)


def _build(content: CubeContent, path: Path, options: BuildOptions) -> None:
    from hsfuse.writers.geotiff.tiff import write_geotiff

    write_geotiff(content, path, options, tile_px=TILE_PX)


def open_tiff(path: Path) -> CubeReader:
    """Open a finished TIFF."""
    from hsfuse.writers.raster_cube import RasterCube

    return RasterCube(path)


FORMAT = FormatEntry(
    name="gtiff",
    summary="GeoTIFF, tiled, band by band",
    suffixes=SUFFIXES,
    media_type="image/tiff; application=geotiff",
    build=_build,
    open=open_tiff,
    compressions=COMPRESSIONS,
    follows_rows=True,
    disk_need=_disk_need,
)
"""The entry of the registry."""
