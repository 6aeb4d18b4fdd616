"""Open the multispectral side of a pair, whatever it is: Sentinel-2 products or any raster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsfuse.errors import HsfuseError, InputError, OverlapError, UsageError
from hsfuse.grid import Grid
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.safe_archive import SafeArchive, product_roots

if TYPE_CHECKING:
    from hsfuse.readers.sentinel2 import BandChoice, Sentinel2Product


@dataclass(frozen=True)
class _TileSource:
    """A tile that could be opened."""

    path: Path
    granule: str
    grid: Grid


def open_msi(
    paths: Path | str | Sequence[Path | str], *, bands: BandChoice = "10m", target: Grid | None = None
) -> MultispectralProduct:
    """Open one or several files or folders as one multispectral product.

    Parameters
    ----------
    paths
        Sentinel-2 products (``.SAFE`` folders, their ``MTD_MSIL*.xml``, zips), a folder that holds several of
        them, or one raster that GDAL reads (GeoTIFF, ENVI, ...).
    bands
        Sentinel-2 bands: ``10m``, ``all`` (the 20 m bands too) or ``swir`` (B02, B11 and B12).
    target
        Grid of the hyperspectral image: only tiles that touch it are opened, and a mosaic covers it.

    Returns
    -------
    MultispectralProduct
        A single Sentinel-2 tile, a mosaic, or a raster.

    Raises
    ------
    InputError
        Something does not exist, is no product, or is damaged.
    OverlapError
        Nothing lies under ``target``.
    """
    listed = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    if not listed:
        raise UsageError("No multispectral image was given.", hint="Give a Sentinel-2 .SAFE folder or .zip.")
    products, rasters = _sort(listed)
    if rasters and (products or len(rasters) > 1):
        raise InputError(
            f"{rasters[0].name} cannot be combined with other images.",
            hint="A mosaic is made of Sentinel-2 products only; mosaic other rasters beforehand.",
        )
    if rasters:
        return _open_raster(rasters[0], target)
    return _open_sentinel2(products, bands, target)


def _sort(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Split into Sentinel-2 products and other rasters; look into folders that hold products."""
    products: list[Path] = []
    rasters: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist.", hint="Check the path of the multispectral image.")
        if path.is_dir():
            products += _in_folder(path)
        elif path.suffix.lower() in (".zip", ".xml", ".safe"):
            products.append(path)
        elif path.suffix.lower() == ".jp2" and "GRANULE" in path.parts:
            raise InputError(
                f"{path.name} is a single band of a Sentinel-2 product.",
                hint="Give the .SAFE folder that it lies in: scale and offset are in its metadata.",
            )
        else:
            rasters.append(path)
    return list(dict.fromkeys(products)), rasters


def _in_folder(folder: Path) -> list[Path]:
    roots = product_roots(folder)
    if "" in roots:
        return [folder]
    # The same product may lie twice, packed and unpacked: the unpacked one is faster.
    found = {Path(root).name.removesuffix(".SAFE"): folder / root for root in roots}
    for archive in sorted(folder.glob("*.zip")):
        if product_roots(archive):
            found.setdefault(archive.stem.removesuffix(".SAFE"), archive)
    if not found:
        raise InputError(
            f"{folder} holds no Sentinel-2 product.",
            hint="Give a .SAFE folder, or a folder with .SAFE folders or .zip files in it.",
        )
    return list(found.values())


def _open_raster(path: Path, target: Grid | None) -> MultispectralProduct:
    from hsfuse.readers.raster import RasterMsi

    product: MultispectralProduct = RasterMsi(path)
    if target is not None and not _touches(product.grid, target):
        product.close()
        raise _no_overlap([path.name])
    return product


def _open_sentinel2(paths: Sequence[Path], bands: BandChoice, target: Grid | None) -> MultispectralProduct:
    # Their libraries take a moment to load, and rasters need none of them.
    from hsfuse.readers.s2_mosaic import Sentinel2Mosaic
    from hsfuse.readers.sentinel2 import Sentinel2Product

    sources = [source for path in paths for source in _tiles(path)]
    near = [source for source in sources if target is None or _touches(source.grid, target)]
    if not near:
        raise _no_overlap(sorted({source.path.name for source in sources}))
    opened: list[Sentinel2Product] = []
    try:
        for source in near:
            opened.append(Sentinel2Product(source.path, bands=bands, granule=source.granule))  # noqa: PERF401 - kept for closing
        if len(opened) == 1:
            if target is not None and not _touches(opened[0].grid, target):
                raise _no_overlap([opened[0].info.name])
            return opened[0]
        bounds, crs = (target.bounds, target.crs) if target is not None else (None, None)
        return Sentinel2Mosaic(opened, bounds=bounds, bounds_crs=crs)
    except HsfuseError:
        for product in opened:
            product.close()
        raise


def _tiles(path: Path) -> list[_TileSource]:
    from hsfuse.readers.safe_metadata import read_safe_metadata

    archive = SafeArchive(path)
    try:
        metadata = read_safe_metadata(archive)
    finally:
        archive.close()
    return [_TileSource(path, tile.name, tile.grids[10]) for tile in metadata.granules]


def _touches(grid: Grid, target: Grid) -> bool:
    return target.bounds_in(grid.crs).intersect(grid.bounds) is not None


def _no_overlap(names: Sequence[str]) -> OverlapError:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    verb = "does" if len(names) == 1 else "do"
    return OverlapError(
        f"{shown} {verb} not overlap the hyperspectral image.",
        hint="Check the tile of the Sentinel-2 product; `hsfuse info FILE` prints both footprints.",
    )
