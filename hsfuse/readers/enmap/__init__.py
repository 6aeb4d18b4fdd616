"""EnMAP products of DLR: L2A (surface reflectance) and L1C (radiance at the top of the atmosphere)."""

from __future__ import annotations

import re
from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import OpenOptions, ReaderEntry
from hsfuse.readers.package import is_package_folder, package_confidence

__all__ = ["READER"]

_MARK = b"<level_X"
_IN_ZIP = re.compile(r"^ENMAP.*-METADATA\.XML$", re.IGNORECASE)


def _probe(path: Path) -> float:
    return package_confidence(path, _MARK, _IN_ZIP)


def _open(path: Path, options: OpenOptions) -> HyperspectralProduct:
    from hsfuse.readers.enmap.metadata import read_facts
    from hsfuse.readers.ortho_cube import OrthoCube
    from hsfuse.readers.package import ProductPackage

    package = ProductPackage(path, "EnMAP")
    try:
        facts = read_facts(package)
    except BaseException:
        package.close()
        raise
    return OrthoCube(package, facts, cut_nm=options.cut_nm)


READER = ReaderEntry(
    name="enmap",
    summary="EnMAP product (L2A or L1C: folder, *-METADATA.XML or .zip)",
    roles=frozenset({"hsi"}),
    probe=_probe,
    open=_open,
    is_folder_product=lambda folder: is_package_folder(folder, _MARK),
)
