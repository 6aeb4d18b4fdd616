"""Writing a GeoTIFF: tiles, band by band, in one pass whose bytes depend on nothing but the rows."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from hsfuse._version import __version__
from hsfuse.errors import DiskFullError
from hsfuse.parallel import one_ahead
from hsfuse.processor import usable_cores
from hsfuse.readers.gdal import gdal_name
from hsfuse.writers.band_metadata import (
    CubeMetadata,
    band_items,
    default_bands,
    envi_fields,
    imagery_items,
)
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.format import BuildOptions, CubeContent
from hsfuse.writers.provenance import provenance_tags
from hsfuse.writers.statistics import sampled_statistics

LERC_MAX_ERROR = 1e-4
"""Largest change of a reflectance by LERC compression."""
CACHE_BYTES = 64 << 20
"""GDAL's block cache; its default of 5 % of the memory is a hidden user of gigabytes."""
_GROUP_BYTES = 24 * 2**20
"""Samples that are handed to GDAL at a time, while the next ones are read."""


def gdal_options() -> dict[str, Any]:
    """GDAL settings for all writing: a bounded cache and no ``.aux.xml`` files."""
    return {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_PAM_ENABLED": "NO"}


def compression_options(compress: str, encoding: SampleEncoding) -> dict[str, Any]:
    """Creation options of a compression; predictors follow the sample type."""
    predictor = 2 if encoding.is_integer else 3
    if compress == "zstd":
        return {"compress": "ZSTD", "zstd_level": 1, "predictor": predictor}
    if compress == "deflate":
        return {"compress": "DEFLATE", "zlevel": 1, "predictor": predictor}
    if compress == "lerc":
        return {"compress": "LERC_ZSTD", "max_z_error": LERC_MAX_ERROR, "zstd_level": 1}
    return {}


def layout_options(tile_px: int, threads: int | None) -> dict[str, Any]:
    """Creation options of the layout, common to GeoTIFF and COG."""
    return {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": tile_px,
        "blockysize": tile_px,
        "interleave": "band",
        "bigtiff": "IF_SAFER",
        "num_threads": str(threads or usable_cores()),
    }


def write_geotiff(
    content: CubeContent, path: Path, options: BuildOptions, *, tile_px: int, own_domains: bool = True
) -> None:
    """Write a tiled GeoTIFF with all its metadata.

    Parameters
    ----------
    content
        The cube.
    path
        File to write.
    options
        Compression, threads (which never change the bytes) and progress.
    tile_px
        Side of a tile.
    own_domains
        See :func:`set_metadata`.

    Raises
    ------
    DiskFullError
        The finished file is not complete.
    """
    source, grid, encoding = content.rows, content.grid, content.encoding
    bands, height, width = source.shape
    creation = layout_options(tile_px, options.threads) | compression_options(options.compress, encoding)
    group = max(1, _GROUP_BYTES // (tile_px * width * encoding.dtype.itemsize))
    with rasterio.Env(**gdal_options()):
        with rasterio.open(
            gdal_name(path), "w", width=width, height=height, count=bands, dtype=encoding.dtype.name,
            crs=grid.crs, transform=grid.transform, nodata=encoding.nodata, photometric="MINISBLACK", **creation,
        ) as dataset:  # fmt: skip
            set_metadata(dataset, content.metadata, encoding, own_domains=own_domains)
            # Whole tiles, each exactly once, in one fixed order: the file's layout is then the same every time.
            pieces = [
                _Piece(row0, min(tile_px, height - row0), band0, min(band0 + group, bands))
                for row0 in range(0, height, tile_px)
                for band0 in range(0, bands, group)
            ]
            # While one piece is written, the next is read.
            for piece, samples in zip(pieces, one_ahead(lambda piece: source.read(*piece), pieces), strict=True):
                window = Window(0, piece.row0, width, piece.rows)
                dataset.write(samples, range(piece.band0 + 1, piece.band1 + 1), window=window)
                if piece.band1 == bands:
                    options.advance(float(piece.rows))
            # They need the last rows, while all others may be compressed before those are made.
            for index, items in enumerate(sampled_statistics(source, encoding), start=1):
                dataset.update_tags(index, **items)
        check_complete(path)


class _Piece(NamedTuple):
    """Some bands of some rows."""

    row0: int
    rows: int
    band0: int
    band1: int


def set_metadata(dataset: Any, metadata: CubeMetadata, encoding: SampleEncoding, *, own_domains: bool) -> None:
    """Put wavelengths, scale, colours and provenance into an open dataset, before its first pixel.

    ``own_domains``: what concerns the whole cube goes to the domains ``ENVI`` and ``IMAGERY``; otherwise it stands
    among the dataset's plain items.
    """
    bands = metadata.bands
    names = bands.names()
    tags = provenance_tags(metadata.provenance, metadata.identity)
    tags["TIFFTAG_SOFTWARE"] = f"hsfuse {__version__}"
    if metadata.description:
        tags["TIFFTAG_IMAGEDESCRIPTION"] = metadata.description
    dataset.update_tags(**tags)
    imagery = {"SATELLITEID": metadata.sensor} if metadata.sensor else {}
    if metadata.acquired is not None:
        imagery["ACQUISITIONDATETIME"] = metadata.acquired_utc
    spectral = {key.replace(" ", "_"): text for key, text in envi_fields(metadata).items()}
    for domain, items in (("IMAGERY", imagery), ("ENVI", spectral)):
        if items:
            dataset.update_tags(ns=domain if own_domains else None, **items)
    for index in range(len(bands)):
        dataset.update_tags(index + 1, **band_items(metadata, index))
        dataset.update_tags(index + 1, ns="IMAGERY", **imagery_items(bands, index))
        dataset.set_band_description(index + 1, names[index])
    if encoding.is_integer:
        dataset.scales = (1.0 / encoding.scale,) * len(bands)
        dataset.offsets = (0.0,) * len(bands)
    colours = [ColorInterp.undefined] * len(bands)
    chosen = default_bands(bands)
    if len(set(chosen)) == 3:
        for index, colour in zip(chosen, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True):
            colours[index] = colour
        dataset.colorinterp = colours


def check_complete(path: Path) -> None:
    """Make sure that every tile of a TIFF lies inside its file.

    GDAL writes its last blocks while closing, where a full disk raises no error.

    Raises
    ------
    DiskFullError
        Tiles are missing or cut off.
    """
    try:
        complete = _all_tiles_inside(path)
    except RasterioIOError:
        complete = False
    if not complete:
        raise DiskFullError(
            f"The file {path} is not complete; the disk is probably full.",
            hint="Free some space, then run the same command with --resume.",
        )


def _all_tiles_inside(path: Path) -> bool:
    size = path.stat().st_size
    with rasterio.open(gdal_name(path)) as dataset:
        rows, cols = dataset.block_shapes[0]
        across, down = -(-dataset.width // cols), -(-dataset.height // rows)
        for band, y, x in product(dataset.indexes, range(down), range(across)):
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band)
            if offset is None or length is None or int(offset) + int(length) > size:
                return False
    return True
