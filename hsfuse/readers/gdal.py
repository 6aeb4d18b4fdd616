"""Opening images of products with GDAL: file formats only, nothing that leads to other files or to the network.

A product comes from elsewhere and may be made to do harm: a virtual raster under the name of an image reads whatever
files it names, some formats fetch from servers. So only formats that hold their pixels themselves are tried, JPEG 2000
images of Sentinel-2 by the JPEG 2000 driver alone, and GDAL's access to the network is off while product files are
open.
"""

from __future__ import annotations

import os
import tempfile
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
    "GDAL_HTTP_PROXY": "127.0.0.1:9",
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


def _in_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class FolderAlias:
    """Names that GDAL understands for the files of a folder whose own path is not in UTF-8.

    Such a folder gets a symbolic link in the temporary folder, which :meth:`close` removes.

    Parameters
    ----------
    folder
        Existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link: tempfile.TemporaryDirectory[str] | None = None

    def name(self, file: str) -> str:
        """Return the name of a file in the folder.

        Raises
        ------
        InputError
            Its own name is not in UTF-8, or no link can be made.
        """
        path = self._folder / file
        # A link cannot help where the file's own name is the trouble.
        if _in_utf8(str(path.absolute())) or not _in_utf8(file):
            return gdal_name(path)
        return gdal_name(Path(self._linked()) / file)

    def _linked(self) -> str:
        try:
            if self._link is None:
                link = tempfile.TemporaryDirectory(prefix="hsfuse-link-", ignore_cleanup_errors=True)
                Path(link.name, "folder").symlink_to(self._folder.absolute(), target_is_directory=True)
                self._link = link
        except OSError as error:
            raise InputError(
                f"{os.fsencode(self._folder)!r}: this path is not in UTF-8, and a link to it cannot be made "
                f"({error.strerror}).",
                hint="Rename the folder.",
            ) from error
        return f"{self._link.name}/folder"

    def close(self) -> None:
        """Remove the link."""
        if self._link is not None:
            self._link.cleanup()
            self._link = None


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
