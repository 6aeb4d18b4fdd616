"""Tiles of Sentinel-2 products: found in files and folders, opened as one tile or as a mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsfuse.errors import HsfuseError, InputError
from hsfuse.grid import Grid
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.entry import BandChoice
from hsfuse.readers.footprint import no_overlap, touches
from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.metadata import read_safe_metadata
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.names import is_band_image, product_roots
from hsfuse.readers.sentinel2.product import Sentinel2Product


@dataclass(frozen=True)
class _TileSource:
    """A tile that could be opened."""

    path: Path
    granule: str
    grid: Grid


def open_tiles(
    paths: Sequence[Path], bands: BandChoice, target: Grid | None, *, verify: bool = True, threads: int | None = None
) -> MultispectralProduct:
    """Open the tiles of some products that touch ``target`` (all when None); see :class:`Sentinel2Product`.

    Raises
    ------
    InputError
        A path is no product, or damaged.
    OverlapError
        No tile lies under ``target``.
    """
    found = [product for path in paths for product in _products(path)]
    sources = [source for path in dict.fromkeys(found) for source in _tiles(path)]
    near = [source for source in sources if target is None or touches(source.grid, target)]
    if not near:
        raise no_overlap(sorted({source.path.name for source in sources}))
    opened: list[Sentinel2Product] = []
    try:
        for source in near:
            product = Sentinel2Product(source.path, bands=bands, granule=source.granule, verify=verify, threads=threads)
            opened.append(product)
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


def _products(path: Path) -> list[Path]:
    """Products that a path stands for: itself, or those in a folder."""
    if is_band_image(path):
        raise InputError(
            f"{path.name} is a single band of a Sentinel-2 product.",
            hint="Give the .SAFE folder that it lies in: scale and offset are in its metadata.",
        )
    if not path.is_dir():
        return [path]
    roots = product_roots(path)
    if "" in roots:
        return [path]
    # The same product may lie twice, packed and unpacked: the unpacked one is faster.
    found = {Path(root).name.removesuffix(".SAFE"): path / root for root in roots}
    for archive in sorted(path.glob("*.zip")):
        if product_roots(archive):
            found.setdefault(archive.stem.removesuffix(".SAFE"), archive)
    if not found:
        raise InputError(
            f"{path} holds no Sentinel-2 product.",
            hint="Give a .SAFE folder, or a folder with .SAFE folders or .zip files in it.",
        )
    return list(found.values())


def _tiles(path: Path) -> list[_TileSource]:
    archive = SafeArchive(path)
    try:
        metadata = read_safe_metadata(archive)
    finally:
        archive.close()
    return [_TileSource(path, tile.name, tile.grids[10]) for tile in metadata.granules]
