"""Files inside zips: where stored ones begin, and what a damaged archive raises."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from hsfuse.errors import InputError

DAMAGED_ZIP = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error, zipfile.BadZipFile)
"""What :mod:`zipfile` raises for damaged, encrypted and unknown archives."""

_LOCAL_HEADER = struct.Struct("<4s2H3H3L2H")


def stored_part(path: Path, info: zipfile.ZipInfo, gdal_name: str) -> str:
    """Return the name under which GDAL reads a member that is stored without compression, in place.

    Parameters
    ----------
    path
        Zip file.
    info
        Member.
    gdal_name
        Name of the zip file for GDAL.

    Raises
    ------
    InputError
        The archive is damaged there.
    """
    try:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    except (OSError, ValueError, struct.error) as error:
        raise InputError(
            f"{info.filename} cannot be read from {path.name}: {error}.", hint="Download the product again."
        ) from error
    if fields[0] != b"PK\x03\x04":
        raise InputError(
            f"{info.filename} cannot be read from {path.name}: the archive is damaged.",
            hint="The download may be incomplete; fetch it again.",
        )
    start = info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
    return f"/vsisubfile/{start}_{info.file_size},{gdal_name}"
