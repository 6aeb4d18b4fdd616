"""Any raster that GDAL reads: a hyperspectral cube when it names wavelengths, else a multispectral image."""

from __future__ import annotations

from pathlib import Path

from hsfuse.errors import InputError
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.entry import POSSIBLE, OpenOptions, ReaderEntry, Role
from hsfuse.readers.footprint import no_overlap, touches

__all__ = ["READER"]


def _probe(path: Path) -> float:
    # GDAL knows too many formats to tell them here; its own message serves for files that are none.
    return 0.0 if path.is_dir() else POSSIBLE / 2


def _open(path: Path, options: OpenOptions) -> HyperspectralProduct | MultispectralProduct:
    if options.role == "hsi":
        from hsfuse.readers.raster.hsi import RasterHsi

        return RasterHsi(path, cut_nm=options.cut_nm, declared=options.declared)
    from hsfuse.readers.raster.msi import RasterMsi

    product = RasterMsi(path)
    if options.target is not None and not touches(product.grid, options.target):
        product.close()
        raise no_overlap([path.name])
    return product


def _role_of(path: Path) -> Role:
    from hsfuse.readers.raster.file import RasterFile

    try:
        raster = RasterFile(path)
    except InputError:
        return "hsi"
    try:
        metadata = raster.metadata()
        return "hsi" if metadata.named or metadata.problems else "msi"
    finally:
        raster.close()


READER = ReaderEntry(
    name="raster",
    summary="GeoTIFF, ENVI cube or other raster",
    roles=frozenset({"hsi", "msi"}),
    probe=_probe,
    open=_open,
    role_of=_role_of,
    takes_declarations=True,
)
