"""Sentinel-2 L2A and L1C products: single tiles, and mosaics of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, POSSIBLE, OpenOptions, ReaderEntry
from hsfuse.readers.file_kind import is_zip

__all__ = ["READER"]


def _probe(path: Path) -> float:
    from hsfuse.readers.sentinel2.archive import holds_products, is_band_image, product_roots

    if path.is_dir():
        # Any folder may be meant as one of products: the refusal says what was looked for.
        return CERTAIN if holds_products(path) else POSSIBLE / 2
    suffix = path.suffix.lower()
    if is_zip(path) or suffix == ".zip":
        return CERTAIN if product_roots(path) else POSSIBLE
    return LIKELY if suffix in (".xml", ".safe") or is_band_image(path) else 0.0


def _open(path: Path, options: OpenOptions) -> MultispectralProduct:
    return _open_several([path], options)


def _open_several(paths: Sequence[Path], options: OpenOptions) -> MultispectralProduct:
    # Its libraries take a moment to load, and other products need none of them.
    from hsfuse.readers.sentinel2.tiles import open_tiles

    return open_tiles(paths, options.bands, options.target)


READER = ReaderEntry(
    name="sentinel2",
    summary="Sentinel-2 product (.SAFE folder or .zip)",
    roles=frozenset({"msi"}),
    probe=_probe,
    open=_open,
    open_several=_open_several,
)
