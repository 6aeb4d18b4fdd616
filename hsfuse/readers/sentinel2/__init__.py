"""Sentinel-2 L2A and L1C products: single tiles, and mosaics of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, POSSIBLE, OpenOptions, ReaderEntry
from hsfuse.readers.file_kind import is_zip
from hsfuse.readers.product_header import ProductHeader

__all__ = ["READER"]


def _probe(path: Path) -> float:
    from hsfuse.readers.sentinel2.names import holds_products, is_band_image, is_metadata, product_roots

    if path.is_dir():
        # Any folder may be meant as one of products: the refusal says what was looked for.
        return CERTAIN if holds_products(path) else POSSIBLE / 2
    suffix = path.suffix.lower()
    if is_zip(path) or suffix == ".zip":
        return CERTAIN if product_roots(path) else POSSIBLE
    if suffix == ".safe" or is_band_image(path) or is_metadata(path):
        return LIKELY
    # Other XML files may be anybody's.
    return POSSIBLE if suffix == ".xml" else 0.0


def _open(path: Path, options: OpenOptions) -> MultispectralProduct:
    return _open_several([path], options)


def _open_several(paths: Sequence[Path], options: OpenOptions) -> MultispectralProduct:
    # Its libraries take a moment to load, and other products need none of them.
    from hsfuse.readers.sentinel2.tiles import open_tiles

    return open_tiles(paths, options)


def _header(path: Path) -> ProductHeader:
    from hsfuse.readers.sentinel2.archive import SafeArchive
    from hsfuse.readers.sentinel2.metadata import read_safe_metadata

    archive = SafeArchive(path)
    try:
        facts = read_safe_metadata(archive)
    finally:
        archive.close()
    # All products of a datatake carry its start, to the millisecond.
    moment = facts.start.isoformat() if facts.start else facts.name
    return ProductHeader(
        path, facts.name, tuple(granule.grids[10] for granule in facts.granules), facts.start, facts.cloud_percent,
        facts.level, facts.baseline, f"{facts.spacecraft} {facts.level} {moment}", facts.outline,
    )  # fmt: skip


def _is_product(folder: Path) -> bool:
    from hsfuse.readers.sentinel2.names import is_product_folder

    # A SAFE folder without its main XML is a damaged product, which is worth being told.
    return folder.suffix.upper() == ".SAFE" or is_product_folder(folder)


READER = ReaderEntry(
    name="sentinel2",
    summary="Sentinel-2 product (.SAFE folder or .zip)",
    roles=frozenset({"msi"}),
    probe=_probe,
    open=_open,
    open_several=_open_several,
    header=_header,
    is_folder_product=_is_product,
)
