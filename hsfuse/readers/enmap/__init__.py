"""EnMAP products of DLR: L2A (surface reflectance) and L1C (radiance at the top of the atmosphere)."""

from __future__ import annotations

from hsfuse.readers.package_entry import package_reader

__all__ = ["READER"]

READER = package_reader("enmap", "EnMAP", b"<level_X", "EnMAP product (L2A or L1C: folder, *-METADATA.XML or .zip)")
