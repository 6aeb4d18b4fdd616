"""Cloud optimised GeoTIFF: overviews first, then one copy that puts them where a web reader expects them.

GDAL's own COG driver interleaves by pixel before release 3.11, which makes reading three of a hundred bands as
expensive as reading all. A copy of a tiled GeoTIFF *with* its overviews gives the same ordering of headers and
overviews and keeps the bands apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.enums import Resampling

from hsfuse.config import Compression
from hsfuse.grid import Grid
from hsfuse.log import get_logger
from hsfuse.writers.band_metadata import CubeMetadata
from hsfuse.writers.base import COG_TILE_PX, ignore
from hsfuse.writers.encoding import RowSource, SampleEncoding
from hsfuse.writers.geotiff import check_complete, compression_options, gdal_options, layout_options, write_geotiff

_BAND_DOMAIN = "HSFUSE_BAND"
_HEADER_BYTES = 16 * 2**20

_log = get_logger(__name__)


def overview_factors(height: int, width: int, tile_px: int) -> list[int]:
    """Halvings until the whole image fits in one tile."""
    factors: list[int] = []
    factor = 2
    while max(height, width) > tile_px * factor // 2:
        factors.append(factor)
        factor *= 2
    return factors


def write_cog(
    source: RowSource,
    path: Path,
    metadata: CubeMetadata,
    grid: Grid,
    encoding: SampleEncoding,
    *,
    compress: Compression,
    threads: int | None = None,
    advance: Callable[[float], None] = ignore,
) -> None:
    """Write a COG with band interleave and averaged, nodata-aware overviews.

    Parameters are those of :func:`hsfuse.writers.geotiff.write_geotiff`. An uncompressed intermediate file lies
    beside ``path`` meanwhile, so that lossy compression is applied once.
    """
    _, height, width = source.shape
    plain = path.with_name(path.stem + ".plain.tif")
    threads_text = layout_options(COG_TILE_PX, threads)["num_threads"]
    try:
        write_geotiff(
            source, plain, metadata, grid, encoding,
            compress="none", tile_px=COG_TILE_PX, threads=threads, band_domain=_BAND_DOMAIN,
            advance=lambda rows: advance(rows / 4),
        )  # fmt: skip
        with rasterio.Env(**gdal_options(), GDAL_TIFF_OVR_BLOCKSIZE=COG_TILE_PX, GDAL_NUM_THREADS=threads_text):
            factors = overview_factors(height, width, COG_TILE_PX)
            if factors:
                with rasterio.open(plain, "r+") as dataset:
                    dataset.build_overviews(factors, Resampling.average)
            advance(height / 4)
            options = layout_options(COG_TILE_PX, threads) | compression_options(compress, encoding)
            # Without COPY_SRC_MDD the ENVI and IMAGERY domains of the dataset stay behind.
            rasterio.shutil.copy(plain, path, copy_src_overviews="YES", copy_src_mdd="YES", **options)
            _lift_band_items(path)
            check_complete(path)
            advance(height / 2)
    finally:
        plain.unlink(missing_ok=True)


def _lift_band_items(path: Path) -> None:
    """Move the bands' items from their auxiliary domain to the default one, in place.

    GDAL's copy keeps either the dataset's domains or the bands' default items, never both. Blanks in place of the
    domain attribute keep the XML text's length, so no offset in the file moves.
    """
    attribute = f' domain="{_BAND_DOMAIN}"'.encode()
    with path.open("r+b") as stream:
        # The first directory and its metadata text open the file; the image follows far behind.
        content = stream.read(_HEADER_BYTES)
        position = content.find(b"<GDALMetadata>")
        end = content.find(b"</GDALMetadata>", position)
        if position < 0 or end < 0:
            _log.debug("%s: the bands' items stay in the domain %s", path.name, _BAND_DOMAIN)
            return
        stream.seek(position)
        stream.write(content[position:end].replace(attribute, b" " * len(attribute)))
