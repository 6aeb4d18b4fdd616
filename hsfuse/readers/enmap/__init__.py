"""EnMAP products of DLR: L2A (surface reflectance) and L1C (radiance at the top of the atmosphere)."""

from __future__ import annotations

import re
from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import CERTAIN, OpenOptions, ReaderEntry
from hsfuse.readers.package import package_tells

__all__ = ["READER"]

_IN_ZIP = re.compile(r"^ENMAP.*-METADATA\.XML$", re.IGNORECASE)


def _probe(path: Path) -> float:
    return CERTAIN if package_tells(path, b"<level_X", _IN_ZIP) else 0.0


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
)
