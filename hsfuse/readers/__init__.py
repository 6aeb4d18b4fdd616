"""Product readers: PRISMA, Sentinel-2 and any raster with wavelengths."""
