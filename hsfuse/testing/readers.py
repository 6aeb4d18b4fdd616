"""What a reader promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsfuse.errors import HsfuseError
from hsfuse.grid import Slice2D
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.entry import POSSIBLE, OpenOptions, ReaderEntry, Role
from hsfuse.testing.expect import expect


def check_reader(entry: ReaderEntry, path: Path, *, foreign: Path) -> None:
    """Check a reader on one of its products.

    Parameters
    ----------
    entry
        The reader.
    path
        A product that it reads.
    foreign
        A file or folder that it does not, or that it would take only because nobody else does.

    Raises
    ------
    AssertionError
        It does not know its product, takes a foreign one, or a product does not keep what the protocol says.
    """
    expect(0.0 < entry.probe(path) <= 1.0, f"The reader {entry.name} does not know {path}.")
    expect(entry.probe(foreign) <= POSSIBLE, f"The reader {entry.name} takes {foreign} for its own.")
    for role in sorted(entry.roles):
        _check_product(entry, path, role)


def _check_product(entry: ReaderEntry, path: Path, role: Role) -> None:
    try:
        product = entry.open(path, OpenOptions(role=role))
    except HsfuseError as error:
        raise AssertionError(f"The reader {entry.name} cannot open {path}: {error.message}") from error
    with product:
        kind = HyperspectralProduct if role == "hsi" else MultispectralProduct
        expect(isinstance(product, kind), f"The product is no {kind.__name__}.")
        height, width = product.grid.shape
        whole = product.read(product.grid.full)
        count = len(product.bands) if isinstance(product, HyperspectralProduct) else len(product.band_names)
        expect(whole.shape == (count, height, width), f"The whole product has the shape {whole.shape}.")
        expect(whole.dtype == np.float32, f"Reflectance is {whole.dtype}, not float32.")
        expect(np.isfinite(whole).any(), "No sample holds data.")
        window = Slice2D(height // 3, height // 3 + max(height // 4, 1), width // 4, width // 4 + max(width // 3, 1))
        some = [count - 1, 0]
        np.testing.assert_array_equal(product.read(window), whole[(slice(None), *window.slices)])
        np.testing.assert_array_equal(product.read(window, some), whole[(some, *window.slices)])
        if isinstance(product, HyperspectralProduct):
            expect(np.all(np.diff(product.bands.centre_nm) > 0), "The bands do not ascend in wavelength.")
            valid = product.valid(product.grid.full)
            expect(valid.shape == (height, width) and valid.dtype == bool, "valid() gives no mask of the grid.")
            hidden = np.isfinite(whole[:, ~valid])
            expect(not hidden.any(), "Pixels that are not valid hold reflectance.")
