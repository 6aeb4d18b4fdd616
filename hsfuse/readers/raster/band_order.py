"""Whether a list of wavelengths belongs to the images in the order in which they are stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers.raster.file import RasterFile

_FEWEST = 12
"""Neighbours of fewer bands say nothing."""
_BREAKS = 1
"""Turns of a list that is simply sorted, or runs through the overlap of two detectors."""
_WINDOW_PX = 64
_TIMES = 3.0
"""How much more neighbours in wavelength must differ than neighbours in the file."""
_LEAST = 1e-3


def check_order(raster: RasterFile, centre_nm: NDArray[np.float64]) -> None:
    """Compare the order of the wavelengths with what the images show.

    Bands next to each other in wavelength resemble each other. Where the list runs up and down, either the images do
    so too, and are sorted by it, or the list is not theirs.

    Raises
    ------
    InputError
        Neighbours in the file resemble each other, neighbours in wavelength do not: the list is permuted.
    """
    named = np.flatnonzero(centre_nm != 0)
    steps = np.diff(centre_nm[named])
    if named.size < _FEWEST or min(np.count_nonzero(steps > 0), np.count_nonzero(steps < 0)) <= _BREAKS:
        return
    rows, cols = raster.shape
    row0, col0 = max(0, (rows - _WINDOW_PX) // 2), max(0, (cols - _WINDOW_PX) // 2)
    block = Slice2D(row0, row0 + _WINDOW_PX, col0, col0 + _WINDOW_PX).clipped(rows, cols)
    cube = raster.read(named, block).reshape(named.size, -1).astype(np.float64)
    in_file, by_wavelength = _unlikeness(cube), _unlikeness(cube[np.argsort(centre_nm[named], kind="stable")])
    if by_wavelength > max(_TIMES * in_file, _LEAST):
        raise InputError(
            f"{raster.path}: the wavelengths run up and down, and bands next to each other in wavelength resemble each "
            "other less than bands next to each other in the file: the list is permuted, or belongs to another file.",
            hint="Give the wavelengths in the order of the bands, with --wavelengths FILE.",
        )


def _unlikeness(cube: NDArray[np.float64]) -> float:
    """Median of 1 minus the correlation of neighbouring rows of (band, pixel)."""
    known = np.isfinite(cube).all(axis=0)
    centred = cube[:, known] - cube[:, known].mean(axis=1, keepdims=True) if known.any() else cube[:, :0]
    length = np.sqrt((centred**2).sum(axis=1))
    pairs = (centred[1:] * centred[:-1]).sum(axis=1)
    both = length[1:] * length[:-1]
    return float(np.median(1.0 - pairs[both > 0] / both[both > 0])) if (both > 0).any() else 0.0
