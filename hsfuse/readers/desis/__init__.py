"""DESIS products of DLR: L2A (surface reflectance) and L1C (radiance at the top of the atmosphere), 400 to 1000 nm."""

from __future__ import annotations

import re
from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import OpenOptions, ReaderEntry
from hsfuse.readers.package import is_package_folder, package_confidence

__all__ = ["READER"]

_MARK = b"<hsi_doc"
_IN_ZIP = re.compile(r"^DESIS.*-METADATA\.XML$", re.IGNORECASE)


def _probe(path: Path) -> float:
    return package_confidence(path, _MARK, _IN_ZIP)


def _open(path: Path, options: OpenOptions) -> HyperspectralProduct:
    from hsfuse.readers.desis.metadata import read_facts
    from hsfuse.readers.ortho_cube import OrthoCube
    from hsfuse.readers.package import ProductPackage

    package = ProductPackage(path, "DESIS")
    try:
        facts = read_facts(package)
    except BaseException:
        package.close()
        raise
    return OrthoCube(package, facts, cut_nm=options.cut_nm)


READER = ReaderEntry(
    name="desis",
    summary="DESIS product (L2A or L1C: folder, *-METADATA.xml or .zip)",
    roles=frozenset({"hsi"}),
    probe=_probe,
    open=_open,
    is_folder_product=lambda folder: is_package_folder(folder, _MARK),
)
