"""Writing a COG: overviews first, then one copy that puts them where a web reader expects them.

GDAL's own COG driver interleaves by pixel before release 3.11, which makes reading three of a hundred bands as
expensive as reading all. A copy of a tiled GeoTIFF *with* its overviews gives the same ordering of headers and
overviews and keeps the bands apart. The copy keeps the items of the dataset and of its bands, but of the dataset's
further domains nothing, so what a GeoTIFF has in them stands among the items.
"""

from __future__ import annotations

from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.enums import Resampling

from hsfuse.readers.gdal import gdal_name
from hsfuse.writers.format import BuildOptions, CubeContent
from hsfuse.writers.geotiff.tiff import (
    check_complete,
    compression_options,
    gdal_options,
    layout_options,
    write_geotiff,
)


def overview_factors(height: int, width: int, tile_px: int) -> list[int]:
    """Halvings until the whole image fits in one tile."""
    factors: list[int] = []
    factor = 2
    while max(height, width) > tile_px * factor // 2:
        factors.append(factor)
        factor *= 2
    return factors


def write_cog(content: CubeContent, path: Path, options: BuildOptions, *, tile_px: int) -> None:
    """Write a COG with band interleave and averaged, nodata-aware overviews.

    Parameters are those of :func:`hsfuse.writers.geotiff.tiff.write_geotiff`. An uncompressed intermediate file lies
    beside ``path`` meanwhile, so that lossy compression is applied once.
    """
    _, height, width = content.rows.shape
    plain = path.with_name(path.stem + ".plain.tif")
    quarter = BuildOptions("none", options.threads, lambda rows: options.advance(rows / 4))
    layout = layout_options(tile_px, options.threads)
    try:
        write_geotiff(content, plain, quarter, tile_px=tile_px, own_domains=False)
        with rasterio.Env(
            **gdal_options(), GDAL_TIFF_OVR_BLOCKSIZE=tile_px, GDAL_NUM_THREADS=layout["num_threads"]
        ):  # fmt: skip
            factors = overview_factors(height, width, tile_px)
            if factors:
                with rasterio.open(gdal_name(plain), "r+") as dataset:
                    dataset.build_overviews(factors, Resampling.average)
            options.advance(height / 4)
            creation = layout | compression_options(options.compress, content.encoding)
            rasterio.shutil.copy(gdal_name(plain), gdal_name(path), copy_src_overviews="YES", **creation)
            check_complete(path)
            options.advance(height / 2)
    finally:
        plain.unlink(missing_ok=True)
