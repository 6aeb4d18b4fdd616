"""A PRISMA file."""

from __future__ import annotations

from pathlib import Path

from hsfuse.readers.hdf5_file import Hdf5File

ORDER_HINT = "Order or download the product again; hsfuse needs the original L2D .he5 file."


class He5File(Hdf5File):
    """An open PRISMA file, or the one in a zip; see :class:`~hsfuse.readers.hdf5_file.Hdf5File`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mission="PRISMA", suffix=".he5", hint=ORDER_HINT)
