"""Opening images of products with GDAL: file formats only, nothing that leads to other files or to the network.

A product comes from elsewhere and may be made to do harm: a virtual raster under the name of an image reads whatever
files it names, some formats fetch from servers. So only formats that hold their pixels themselves are tried, JPEG 2000
images of Sentinel-2 by the JPEG 2000 driver alone, and GDAL's access to the network is off while product files are
open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.io import DatasetReader

from hsfuse.errors import InputError

RASTER_DRIVERS = (
    "GTiff", "COG", "ENVI", "HFA", "PCIDSK", "EHdr", "KEA", "RST", "ILWIS", "SAGA", "NITF", "AAIGrid", "GS7BG", "GSBG",
    "PNG", "JPEG", "BMP", "RMF", "LAN", "MFF", "MFF2", "RRASTER", "SRTMHGT", "USGSDEM", "GPKG", "BIGGIF",
    "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "JP2Grok",
)  # fmt: skip
"""Formats that hold their pixels themselves, in the file or in one of the same name."""
JP2_DRIVERS = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "JP2Grok")
TIFF_DRIVERS = ("GTiff", "COG")

_CLOSED = {
    # No name is ever asked of a server, whatever a sidecar or a virtual raster says.
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "/none",
    "GDAL_HTTP_MAX_RETRY": "0",
    "PROJ_NETWORK": "OFF",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}


def closed_world(**options: Any) -> rasterio.Env:
    """Return GDAL settings for product files: no network; further options are added."""
    return rasterio.Env(**_CLOSED, **options)


def gdal_name(path: Path) -> str:
    """Return the name under which GDAL, which thinks in UTF-8, finds a file.

    Raises
    ------
    InputError
        The name is not in UTF-8 on the disk.
    """
    raw = os.fsencode(path.absolute())
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{os.fsencode(path)!r}: this path is not in UTF-8, and GDAL cannot open it.",
            hint="Rename the folder or the file, or make a symbolic link with a plain name.",
        ) from error


def open_image(path: Path | str, drivers: Sequence[str], **options: Any) -> DatasetReader:
    """Open an image of a product.

    Parameters
    ----------
    path
        A local file, or a name that :func:`gdal_name` or an archive has made.
    drivers
        GDAL drivers that may try.
    options
        Further arguments of :func:`rasterio.open`.
    """
    name = gdal_name(path) if isinstance(path, Path) else path
    with closed_world():
        # `rasterio.open` takes one driver only.
        return DatasetReader(name, driver=list(drivers), **options)
