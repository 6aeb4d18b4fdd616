"""Writers: GeoTIFF, COG and ENVI, with wavelengths wherever readers look for them."""
