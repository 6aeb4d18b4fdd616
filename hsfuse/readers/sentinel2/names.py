"""Which files of a folder or zip belong to a Sentinel-2 product, and which were left there by something else."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

PRODUCT_XML = re.compile(r"^(MTD_MSIL(1C|2A)|S2._\w{4}_MTD_SAFL(1C|2A)_\w{1,100})\.xml$")
TILE_XML = re.compile(r"(^MTD_TL\.xml$|_MTD_L(1C|2A)_TL_\w{1,100}\.xml$)")
IMAGE_SUFFIXES = (".jp2", ".tif", ".tiff")

_ZIP_DEPTH = 8
_LOOKED_INTO = 3000
"""Folders of an archive that are looked into before the first product is found."""
_STRANGERS = frozenset({"@eadir", "__macosx", "thumbs.db", "desktop.ini", "#recycle", "$recycle.bin"})


def is_stranger(name: str) -> bool:
    """Tell whether a member was left by an operating system or a file service, not by the producer.

    Such are hidden files (``.DS_Store``, ``._x``), thumbnails and indexes (``Thumbs.db``, ``@eaDir``) and the markers
    of object stores (``x_$folder$``).
    """
    return any(
        part.startswith(".") or part.lower() in _STRANGERS or part.endswith("_$folder$")
        for part in PurePosixPath(name).parts
    )


def zip_members(archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    """Return the files of a zip by POSIX name; archives made on Windows may separate folders by backslashes."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.replace("\\", "/").removeprefix("./")
        if not name.endswith("/") and not is_stranger(name):
            members.setdefault(name, info)
    return members


def product_roots(path: Path) -> list[str]:
    """Folders inside a folder or zip (POSIX, relative, ``""`` for the top) that hold a product's main XML.

    Looks at the top of a folder and two levels below: a SAFE folder itself, a folder with SAFE folders in it, and
    the doubled folder that some unpackers make; in a zip at eight levels. Returns an empty list for anything else,
    also for a broken zip.
    """
    if path.is_dir():
        found: Iterable[str] = (
            file.relative_to(path).as_posix()
            for pattern in ("*.xml", "*/*.xml", "*/*/*.xml")
            for file in path.glob(pattern)
            if PRODUCT_XML.match(file.name) and file.is_file()
        )
    else:
        found = _in_zip(path)
    roots = {PurePosixPath(name).parent.as_posix() for name in found if not is_stranger(name)}
    return sorted("" if root == "." else root for root in roots)


def _in_zip(path: Path) -> list[str]:
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in zip_members(archive)]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []
    return [str(name) for name in names if len(name.parts) <= _ZIP_DEPTH and PRODUCT_XML.match(name.name)]


def is_product_folder(folder: Path) -> bool:
    """Tell whether a folder is a product itself."""
    return any(PRODUCT_XML.match(file.name) and file.is_file() for file in folder.glob("*.xml"))


def holds_products(folder: Path) -> bool:
    """Tell whether a folder is a product, or holds products, packed ones and such in folders below it included."""
    if product_roots(folder) or any(product_roots(archive) for archive in folder.glob("*.zip")):
        return True
    for root, _, names in islice(os.walk(folder), _LOOKED_INTO):
        if root.upper().endswith(".SAFE"):
            return True
        packed = (Path(root) / name for name in names if name.lower().endswith(".zip"))
        if any(product_roots(archive) for archive in packed):
            return True
    return False


def is_metadata(path: Path) -> bool:
    """Tell by its name whether a file is the metadata of a product or of a tile."""
    return bool(PRODUCT_XML.match(path.name) or TILE_XML.search(path.name))


def is_band_image(path: Path) -> bool:
    """Tell whether a file is an image inside a product's GRANULE folder."""
    return path.suffix.lower() == ".jp2" and "GRANULE" in path.parts
