"""Open a hyperspectral product, whatever it is: the content decides, never the file name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsfuse.errors import InputError
from hsfuse.readers.file_kind import ZIP_SIGNATURE, he5_members, is_hdf5
from hsfuse.readers.overlap import DEFAULT_CUT_NM
from hsfuse.readers.raster import RasterHsi

if TYPE_CHECKING:
    from hsfuse.readers.prisma import PrismaProduct

__all__ = ["open_hsi"]


def open_hsi(path: Path | str, *, cut_nm: float = DEFAULT_CUT_NM) -> PrismaProduct | RasterHsi:
    """Open a hyperspectral product.

    Parameters
    ----------
    path
        PRISMA L2D or L2C ``.he5`` (also inside a ``.zip``), or a GeoTIFF or ENVI cube with wavelengths.
    cut_nm
        Where two detectors deliver the same wavelength, the one for shorter waves is used up to here.

    Returns
    -------
    PrismaProduct or RasterHsi
        An open :class:`~hsfuse.readers.base.HyperspectralProduct`, also a context manager.

    Raises
    ------
    InputError
        There is no such file, or it is nothing that can serve as a hyperspectral cube.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(path.glob("*.he5"))
        hint = f"Pass the file, for example {inside[0]}." if inside else "Pass the .he5, .zip, .tif or ENVI file."
        raise InputError(f"{path}: this is a folder, not a hyperspectral product.", hint=hint)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.", hint="Check the path.")
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be read ({error.strerror}).", hint="Check its permissions."
        ) from error
    # A damaged .he5 has no signature; its suffix at least earns it the message that fits.
    if is_hdf5(path) or path.suffix.lower() == ".he5" or (zipped and he5_members(path)):
        # Its libraries take a moment to load, and rasters need none of them.
        from hsfuse.readers.prisma import PrismaProduct

        return PrismaProduct(path, cut_nm=cut_nm)
    if zipped or path.suffix.lower() == ".zip":
        raise InputError(
            f"{path}: the zip holds no PRISMA .he5 file (or is damaged).",
            hint="Hyperspectral products come as .he5; a Sentinel-2 .SAFE belongs in the second place.",
        )
    return RasterHsi(path, cut_nm=cut_nm)
