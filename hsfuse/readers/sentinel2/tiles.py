"""Tiles of Sentinel-2 products: found in files and folders, opened as one tile, a mosaic, or an image of many dates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsfuse.errors import HsfuseError, InputError
from hsfuse.log import get_logger
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import OpenOptions
from hsfuse.readers.footprint import no_overlap, touches
from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.dates import TileSource, open_dates, split_dates, wanted_dates
from hsfuse.readers.sentinel2.metadata import read_safe_metadata
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.names import is_band_image, is_product_folder, is_stranger, product_roots
from hsfuse.readers.sentinel2.product import Sentinel2Product

_log = get_logger(__name__)

_LEVEL_OF = {True: "L2A", False: "L1C", None: "L2A"}
"""Level that is used of a folder with both, by whether the hyperspectral image holds surface reflectance."""


@dataclass(frozen=True)
class _Found:
    """A product, and whether it was found in a folder rather than named."""

    path: Path
    searched: bool


def open_tiles(paths: Sequence[Path], options: OpenOptions) -> MultispectralProduct:
    """Open the tiles of some products that touch ``options.target`` (all when None).

    Tiles of one date become a mosaic, those of several dates an image that is clear where any of them is, joined to the
    date that fits the hyperspectral image best. Without a target, all dates become one mosaic.

    Raises
    ------
    InputError
        A path is no product, or damaged; levels differ.
    OverlapError
        No tile lies under the target, or none is of a date that is wanted.
    """
    target = options.target
    found = list(dict.fromkeys(product for path in paths for product in _products(path)))
    sources = _sources(found)
    near = [source for source in sources if target is None or touches(source.grid, target)]
    if not near:
        raise no_overlap(sorted({source.path.name for source in sources}))
    searched = {product.path for product in found if product.searched}
    near, notes = _of_one_level(near, searched, options)
    near = wanted_dates(near, options.dates)
    dates = split_dates(near)
    if target is None or (len(dates) == 1 and not options.dates.thorough):
        return _open_one_date(near, options, notes)
    return open_dates(dates, options, notes, named=not searched)


def _open_one_date(sources: Sequence[TileSource], options: OpenOptions, notes: tuple[str, ...]) -> MultispectralProduct:
    target = options.target
    opened: list[Sentinel2Product] = []
    try:
        for source in sources:
            opened.append(source.open(options, notes=notes))  # noqa: PERF401 - kept for closing
        if len(opened) == 1:
            if target is not None and not touches(opened[0].grid, target):
                raise no_overlap([opened[0].info.name])
            return opened[0]
        bounds, crs = (target.bounds, target.crs) if target is not None else (None, None)
        return Sentinel2Mosaic(opened, bounds=bounds, bounds_crs=crs)
    except HsfuseError:
        for product in opened:
            product.close()
        raise


def _of_one_level(
    sources: Sequence[TileSource], searched: set[Path], options: OpenOptions
) -> tuple[list[TileSource], tuple[str, ...]]:
    """Leave out what a folder holds of the other level; return the rest and what there is to say about it.

    Raises
    ------
    InputError
        Products of both levels were named.
    """
    if len({source.level for source in sources}) < 2:
        return list(sources), ()
    named = {source.level for source in sources if source.path not in searched}
    if len(named) > 1:
        raise InputError(
            "The Sentinel-2 products have different processing levels (L1C and L2A), so they make no mosaic.",
            hint="Use products of one level, best L2A.",
        )
    level = named.pop() if named else _LEVEL_OF[options.dates.surface]
    left = {source.path for source in sources if source.level != level}
    names = sorted(path.name for path in left)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [source for source in sources if source.level == level], (
        f"Sentinel-2 products of another level than {level} were left out: {names[0]}{more}.",
    )


def _products(path: Path) -> Iterator[_Found]:
    """Products that a path stands for: itself, or those in a folder and the folders below it."""
    if is_band_image(path):
        raise InputError(
            f"{path.name} is a single band of a Sentinel-2 product.",
            hint="Give the .SAFE folder that it lies in: scale and offset are in its metadata.",
        )
    if not path.is_dir() or "" in product_roots(path):
        yield _Found(path, searched=False)
        return
    # The same product may lie twice, packed and unpacked: the unpacked one is faster.
    inside: dict[str, Path] = {}
    for product in sorted(_below(path), key=lambda item: (item.is_file(), item)):
        inside.setdefault(product.name.removesuffix(".zip").removesuffix(".SAFE"), product)
    if not inside:
        raise InputError(
            f"{path} holds no Sentinel-2 product.",
            hint="Give a .SAFE folder, or a folder with .SAFE folders or .zip files in it or below.",
        )
    for product in inside.values():
        yield _Found(product, searched=True)


def _below(folder: Path) -> Iterator[Path]:
    """Product folders and packed products in a folder and below; links are followed, each folder once."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here, place = Path(root), os.path.realpath(root)
        if place in seen:
            folders[:] = []
        elif here != folder and (here.suffix.upper() == ".SAFE" or is_product_folder(here)):
            inner = product_roots(here)
            # Some unpackers make a folder of the same name around the product.
            yield here / inner[0] if len(inner) == 1 else here
            folders[:] = []
        else:
            folders[:] = sorted(name for name in folders if not is_stranger(name))
            packed = (here / name for name in names if name.lower().endswith(".zip") and not is_stranger(name))
            yield from (path for path in packed if product_roots(path))
        seen.add(place)


def _sources(found: Sequence[_Found]) -> list[TileSource]:
    """Tiles of all products; of those that were found in folders, damaged ones are left out with a word in the log.

    Raises
    ------
    InputError
        A product that was named is damaged, or all are.
    """
    sources: list[TileSource] = []
    errors: list[InputError] = []
    for product in found:
        try:
            sources += _tiles(product.path)
        except InputError as error:
            if not product.searched:
                raise
            errors.append(error)
    if errors and not sources:
        raise errors[0]
    for damaged in errors:
        _log.warning("left out: %s", damaged.message)
    return sources


def _tiles(path: Path) -> list[TileSource]:
    archive = SafeArchive(path)
    try:
        metadata = read_safe_metadata(archive)
    finally:
        archive.close()
    return [
        TileSource(
            path, metadata.name, tile.name, tile.tile_id, tile.grids[10], metadata.level, metadata.baseline,
            metadata.spacecraft, tile.sensing_time or metadata.start, tile.sun_zenith_deg, tile.sun_azimuth_deg,
        )
        for tile in metadata.granules
    ]  # fmt: skip
