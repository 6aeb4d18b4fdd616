"""Open a hyperspectral product, whatever it is: the content decides, never the file name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.entry import OpenOptions
from hsfuse.readers.overlap import DEFAULT_CUT_NM

__all__ = ["open_hsi"]


def open_hsi(path: Path | str, *, cut_nm: float = DEFAULT_CUT_NM) -> HyperspectralProduct:
    """Open a hyperspectral product.

    Parameters
    ----------
    path
        Whatever one of the installed readers knows: a PRISMA ``.he5`` (also inside a ``.zip``), a GeoTIFF or ENVI
        cube with wavelengths, a product folder of another reader.
    cut_nm
        Where two detectors deliver the same wavelength, the one for shorter waves is used up to here.

    Returns
    -------
    HyperspectralProduct
        Open, also a context manager.

    Raises
    ------
    InputError
        There is no such file, or it is nothing that can serve as a hyperspectral cube.
    """
    path = Path(path)
    reader = choose_reader(path, "hsi")
    return cast(HyperspectralProduct, reader.open(path, OpenOptions(role="hsi", cut_nm=cut_nm)))
