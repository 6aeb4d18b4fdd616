"""EMIT L2A reflectance of NASA (netCDF-4), 60 m."""

from __future__ import annotations

from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import CERTAIN, OpenOptions, ReaderEntry
from hsfuse.readers.file_kind import is_hdf5

__all__ = ["READER"]


def _probe(path: Path) -> float:
    # Only a look inside tells; PRISMA's suffix saves it for most HDF5 files.
    if path.is_dir() or path.suffix.lower() == ".he5" or not is_hdf5(path):
        return 0.0
    from hsfuse.readers.emit.product import looks_like_emit

    return CERTAIN if looks_like_emit(path) else 0.0


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
