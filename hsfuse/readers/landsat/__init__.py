"""Landsat 8 and 9 Collection 2 Level 2 (surface reflectance, 30 m) of USGS as a multispectral image."""

from __future__ import annotations

from pathlib import Path

from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, OpenOptions, ReaderEntry
from hsfuse.readers.footprint import no_overlap, touches
from hsfuse.readers.landsat.names import is_landsat_file, scenes_in

__all__ = ["READER"]


def _probe(path: Path) -> float:
    if path.is_dir():
        return CERTAIN if scenes_in(path) else 0.0
    return LIKELY if is_landsat_file(path) else 0.0


def _open(path: Path, options: OpenOptions) -> MultispectralProduct:
    from hsfuse.readers.landsat.product import open_landsat

    product = open_landsat(path)
    if options.target is not None and not touches(product.grid, options.target):
        product.close()
        raise no_overlap([product.info.name])
    return product


READER = ReaderEntry(
    name="landsat",
    summary="Landsat 8 or 9 Collection 2 Level 2 product (folder, *_MTL.xml or a band)",
    roles=frozenset({"msi"}),
    probe=_probe,
    open=_open,
    is_folder_product=lambda folder: bool(scenes_in(folder)),
)
