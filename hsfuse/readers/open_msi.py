"""Open the multispectral side of a pair, whatever it is: one image, or several that a reader joins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Grid
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.entry import BandChoice, OpenOptions
from hsfuse.readers.given_path import given_path
from hsfuse.readers.source_dates import DateWish

__all__ = ["open_msi"]


def open_msi(
    paths: Path | str | Sequence[Path | str],
    *,
    bands: BandChoice = "10m",
    target: Grid | None = None,
    verify: bool = True,
    threads: int | None = None,
    dates: DateWish | None = None,
) -> MultispectralProduct:
    """Open one or several files or folders as one multispectral product.

    Parameters
    ----------
    paths
        Sentinel-2 products (``.SAFE`` folders, their ``MTD_MSIL*.xml``, zips), a folder that holds several of
        them, one raster that GDAL reads (GeoTIFF, ENVI, ...), or what another installed reader knows.
    bands
        Sentinel-2 bands: ``10m``, ``all`` (the 20 m bands too) or ``swir`` (B02, B11 and B12).
    target
        Grid of the hyperspectral image: only tiles that touch it are opened, and a mosaic covers it.
    verify
        Compare images with the checksums that the product brings, when they are first read.
    threads
        Threads that may decode images; None: one for each core that the process may use.
    dates
        Which dates are wanted where there are several, and of what hyperspectral image.

    Returns
    -------
    MultispectralProduct
        A single image or a mosaic; open, also a context manager.

    Raises
    ------
    InputError
        Something does not exist, is no product, or is damaged.
    OverlapError
        Nothing lies under ``target``.
    """
    listed = [given_path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
    if not listed:
        raise UsageError("No multispectral image was given.", hint="Give a Sentinel-2 .SAFE folder or .zip.")
    options = OpenOptions(role="msi", bands=bands, target=target, verify=verify, threads=threads,
                          dates=dates or DateWish())  # fmt: skip
    readers = [choose_reader(path, "msi") for path in listed]
    joining = readers[0].open_several
    if len({reader.name for reader in readers}) == 1 and joining is not None:
        return joining(listed, options)
    if len(listed) > 1:
        alone = next(path for path, reader in zip(listed, readers, strict=True) if reader.open_several is None)
        raise InputError(
            f"{alone.name} cannot be combined with other images.",
            hint="A mosaic is made of products of one kind, such as Sentinel-2; mosaic rasters beforehand.",
        )
    return cast(MultispectralProduct, readers[0].open(listed[0], options))
