"""Cloud optimised GeoTIFF: a GeoTIFF with overviews, ordered for reading over a network."""

from __future__ import annotations

from pathlib import Path

from hsfuse.grid import Grid
from hsfuse.writers.format import BuildOptions, CubeContent, DiskNeed, FormatEntry
from hsfuse.writers.geotiff import COMPRESSIONS, SUFFIXES, compressed_bytes, open_tiff, whole_tiles

TILE_PX = 512
_OVERVIEW_SHARE = 1.34
"""A pyramid of halved images adds a third."""


def _disk_need(raw: int, grid: Grid, compress: str) -> DiskNeed:
    product = int(_OVERVIEW_SHARE * compressed_bytes(raw, grid, compress, TILE_PX))
    # An uncompressed file with its overviews lies beside the product while it is made.
    return DiskNeed(product, product + int(_OVERVIEW_SHARE * whole_tiles(raw, grid, TILE_PX)))


def _build(content: CubeContent, path: Path, options: BuildOptions) -> None:
    from hsfuse.writers.cog.layout import write_cog

    write_cog(content, path, options, tile_px=TILE_PX)


FORMAT = FormatEntry(
    name="cog",
    summary="cloud optimised GeoTIFF, with overviews",
    suffixes=SUFFIXES,
    media_type="image/tiff; application=geotiff; profile=cloud-optimized",
    build=_build,
    open=open_tiff,
    compressions=COMPRESSIONS,
    follows_rows=True,
    automatic=False,
    disk_need=_disk_need,
)
"""The entry of the registry."""
