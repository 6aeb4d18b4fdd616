"""The kernel of ``spectra.c`` for numpy arrays; :mod:`hsfuse.fusion.change.typical_spectra` has its plain twin.

Calls release the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at

FloatArray = NDArray[np.float32]

KERNELS = Kernels(plane_kernels("spectra"), "plain NumPy")
MOST_DIRECTIONS = 16
"""That the kernel takes at most."""
_INT, _FLOAT = ctypes.c_int64, ctypes.c_float


def likeness(pixels: FloatArray, spread: FloatArray, spectra: FloatArray, near: float) -> FloatArray | None:
    """Mean of Student's kernels around some spectra, ``(1 + near d^2)^-4``, shape (pixel,).

    Parameters
    ----------
    pixels
        Shape (direction, pixel), contiguous as all others.
    spread
        Units of the distances along the directions, shape (direction,).
    spectra
        Shape (spectrum, direction), in these units.
    near
        Weight of a squared distance.

    Returns
    -------
    numpy.ndarray or None
        None where there is no compiled path.
    """
    native = KERNELS.library()
    directions, count = pixels.shape
    if native is None or directions > MOST_DIRECTIONS:
        return None
    found = np.empty(count, np.float32)
    native.hsf_likeness(
        _at(pixels), _at(1.0 / spread), _at(spectra), _INT(directions), _INT(len(spectra)), _INT(count), _FLOAT(near),
        _at(found),
    )  # fmt: skip
    return found
