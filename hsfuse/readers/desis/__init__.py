"""DESIS products of DLR: L2A (surface reflectance) and L1C (radiance at the top of the atmosphere), 400 to 1000 nm."""

from __future__ import annotations

from hsfuse.readers.package_entry import package_reader

__all__ = ["READER"]

READER = package_reader("desis", "DESIS", b"<hsi_doc", "DESIS product (L2A or L1C: folder, *-METADATA.xml or .zip)")
