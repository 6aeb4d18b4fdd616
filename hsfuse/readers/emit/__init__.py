"""EMIT L2A reflectance of NASA (netCDF-4), 60 m."""

from __future__ import annotations

import re
from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, OpenOptions, ReaderEntry
from hsfuse.readers.file_kind import is_hdf5

__all__ = ["READER"]

_NAMED = re.compile(r"^EMIT_L\d\w_(?!MASK).*\.nc$", re.IGNORECASE)
"""Names of products; a mask file is a part of one."""


def _probe(path: Path) -> float:
    if path.is_dir():
        return 0.0
    # A damaged file, or one of another level, is refused with the sentence that fits.
    named = LIKELY + 0.05 if _NAMED.match(path.name) else 0.0
    # Only a look inside tells; PRISMA's suffix saves it for most HDF5 files.
    if path.suffix.lower() == ".he5" or not is_hdf5(path):
        return named
    from hsfuse.readers.emit.product import looks_like_emit

    return CERTAIN if looks_like_emit(path) else named


def _open(path: Path, options: OpenOptions) -> HyperspectralProduct:  # noqa: ARG001 - one detector
    from hsfuse.readers.emit.product import EmitProduct

    return EmitProduct(path)


READER = ReaderEntry(
    name="emit",
    summary="EMIT L2A reflectance (.nc)",
    roles=frozenset({"hsi"}),
    probe=_probe,
    open=_open,
)
