"""Product readers: PRISMA, Sentinel-2 and any raster with wavelengths."""

from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.readers.open_hsi import open_hsi
from hsfuse.readers.open_msi import open_msi

__all__ = ["HyperspectralProduct", "MultispectralProduct", "ProductInfo", "open_hsi", "open_msi"]
