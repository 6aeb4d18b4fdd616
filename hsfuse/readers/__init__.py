"""Product readers: one folder per sensor, found through entry points, behind two protocols."""

from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.readers.entry import OpenOptions, ReaderEntry
from hsfuse.readers.open_hsi import open_hsi
from hsfuse.readers.open_msi import open_msi
from hsfuse.readers.open_product import open_product

__all__ = [
    "HyperspectralProduct",
    "MultispectralProduct",
    "OpenOptions",
    "ProductInfo",
    "ReaderEntry",
    "open_hsi",
    "open_msi",
    "open_product",
]
