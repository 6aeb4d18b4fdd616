"""Open a single product when nobody says what it is to serve as."""

from __future__ import annotations

from pathlib import Path

from hsfuse.errors import InputError
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.choose import choose_reader, likely_role
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.readers.entry import Role
from hsfuse.readers.given_path import given_path
from hsfuse.readers.open_hsi import open_hsi
from hsfuse.readers.open_msi import open_msi

__all__ = ["open_product"]


def open_product(path: Path | str, *, declared: Declarations = NOTHING) -> HyperspectralProduct | MultispectralProduct:
    """Open a file or folder as what it most likely is.

    A raster whose wavelengths are not usable is opened as a multispectral image. What is ``declared`` is about a
    hyperspectral raster.

    Raises
    ------
    InputError
        No reader can read it.
    """
    path = given_path(path)
    if declared:
        return open_hsi(path, declared=declared)
    role = likely_role(path)
    try:
        return _open(path, role)
    except InputError:
        other: Role = "msi" if role == "hsi" else "hsi"
        if other not in choose_reader(path, role).roles:
            raise
        try:
            return _open(path, other)
        except InputError:
            pass
        raise


def _open(path: Path, role: Role) -> HyperspectralProduct | MultispectralProduct:
    return open_hsi(path) if role == "hsi" else open_msi([path])
