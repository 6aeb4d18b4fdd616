"""PRISMA products of ASI: L2D as stored, L2C, L2B and L1 geocoded."""

from __future__ import annotations

from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import CERTAIN, LIKELY, POSSIBLE, OpenOptions, ReaderEntry
from hsfuse.readers.file_kind import is_hdf5, is_zip, zip_members_ending

__all__ = ["READER"]


def _probe(path: Path) -> float:
    if path.is_dir():
        return 0.0
    if is_hdf5(path):
        # Whatever HDF5 it is: nothing else reads it, and the refusal says what is missing.
        return CERTAIN if path.suffix.lower() == ".he5" else LIKELY
    # A damaged .he5 has no signature; its suffix at least earns it the message that fits.
    if path.suffix.lower() == ".he5":
        return LIKELY
    if is_zip(path) or path.suffix.lower() == ".zip":
        return CERTAIN if zip_members_ending(path, ".he5") else POSSIBLE
    return 0.0


def _open(path: Path, options: OpenOptions) -> HyperspectralProduct:
    # Its libraries take a moment to load, and other products need none of them.
    from hsfuse.readers.prisma.product import PrismaProduct

    return PrismaProduct(path, cut_nm=options.cut_nm)


READER = ReaderEntry(
    name="prisma",
    summary="PRISMA product (.he5 of L2D, L2C, L2B or L1, also in a .zip)",
    roles=frozenset({"hsi", "pan"}),
    probe=_probe,
    open=_open,
)
