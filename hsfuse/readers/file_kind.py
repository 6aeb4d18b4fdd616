"""What a file is by its first bytes and its members, told without the libraries that read it."""

from __future__ import annotations

import zipfile
from pathlib import Path

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"


def is_hdf5(path: Path) -> bool:
    """Tell whether a file carries the HDF5 signature (at its start or behind a user block)."""
    with path.open("rb") as file:
        for offset in (0, 512, 1024, 2048):
            file.seek(offset)
            if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                return True
    return False


def is_zip(path: Path) -> bool:
    """Tell whether a file begins like a zip archive."""
    with path.open("rb") as file:
        return file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE


def zip_members_ending(path: Path, suffix: str) -> list[zipfile.ZipInfo]:
    """Return the members of a zip file whose names end so (none when it is not a readable zip)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                member
                for member in archive.infolist()
                if member.filename.lower().endswith(suffix) and "__MACOSX" not in member.filename
            ]
    except (OSError, zipfile.BadZipFile):
        return []
