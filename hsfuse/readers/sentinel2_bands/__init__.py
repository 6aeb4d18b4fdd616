"""Sentinel-2 as single bands: downloads of the Copernicus Browser, and folders of cloud-optimised images (AWS)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hsfuse.errors import InputError
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, OpenOptions, ReaderEntry
from hsfuse.readers.footprint import no_overlap, touches
from hsfuse.readers.sentinel2_bands.names import band_sets, match_band

__all__ = ["READER"]


def _probe(path: Path) -> float:
    if path.is_dir():
        return CERTAIN if band_sets(path) else 0.0
    # A single band, or a raster that only looks like one: it needs others beside it.
    return LIKELY if (found := match_band(path)) is not None and found.key in band_sets(path.parent) else 0.0


def _open(path: Path, options: OpenOptions) -> MultispectralProduct:
    return _open_several([path], options)


def _open_several(paths: Sequence[Path], options: OpenOptions) -> MultispectralProduct:
    from hsfuse.readers.sentinel2_bands.product import open_bands

    sets = dict.fromkeys(
        (path if path.is_dir() else path.parent, None if (found := match_band(path)) is None else found.key)
        for path in paths
    )
    if len(sets) > 1:
        raise InputError(
            f"{paths[0].name} and {paths[-1].name} are bands of different scenes, which are not combined.",
            hint="Give the bands of one scene, or .SAFE products, which are mosaicked.",
        )
    folder, key = next(iter(sets))
    product = open_bands(folder, key, choice=options.bands)
    if options.target is not None and not touches(product.grid, options.target):
        product.close()
        raise no_overlap([product.info.name])
    return product


READER = ReaderEntry(
    name="sentinel2-bands",
    summary="Sentinel-2 as single bands (Copernicus Browser, cloud-optimised folder)",
    roles=frozenset({"msi"}),
    probe=_probe,
    open=_open,
    open_several=_open_several,
    is_folder_product=lambda folder: bool(band_sets(folder)),
)
