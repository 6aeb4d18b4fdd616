"""Open a hyperspectral product, whatever it is: the content decides, never the file name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hsfuse.errors import UsageError
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.readers.entry import OpenOptions
from hsfuse.readers.given_path import given_path
from hsfuse.readers.overlap import DEFAULT_CUT_NM

__all__ = ["open_hsi"]


def open_hsi(
    path: Path | str, *, cut_nm: float = DEFAULT_CUT_NM, declared: Declarations = NOTHING
) -> HyperspectralProduct:
    """Open a hyperspectral product.

    Parameters
    ----------
    path
        Whatever one of the installed readers knows: a PRISMA ``.he5`` (also inside a ``.zip``), a GeoTIFF or ENVI
        cube with wavelengths, a product folder of another reader.
    cut_nm
        Where two detectors deliver the same wavelength, the one for shorter waves is used up to here.
    declared
        What the user says of a raster, over what its file says.

    Returns
    -------
    HyperspectralProduct
        Open, also a context manager.

    Raises
    ------
    InputError
        There is no such file, or it is nothing that can serve as a hyperspectral cube.
    UsageError
        Something is declared of a product that says everything itself.
    """
    path = given_path(path)
    reader = choose_reader(path, "hsi")
    if declared and not reader.takes_declarations:
        raise UsageError(
            f"{declared.options} cannot be given for {path.name}: this {reader.summary} says all of it itself.",
            hint="These options are for rasters whose files lack it.",
        )
    options = OpenOptions(role="hsi", cut_nm=cut_nm, declared=declared)
    return cast(HyperspectralProduct, reader.open(path, options))
