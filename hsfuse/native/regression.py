"""The kernel of ``regression.c`` for numpy arrays; :mod:`hsfuse.fusion.classical.window_regression` has its plain twin.

Calls release the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at

FloatArray = NDArray[np.float32]

KERNELS = Kernels(plane_kernels("regression", "row_solver.h"), "plain PyTorch")
MOST_BANDS = 16
"""Bands that the kernel regresses on at most."""
_INT, _FLOAT = ctypes.c_int64, ctypes.c_float


def regress(
    guide: FloatArray, detail: FloatArray, components: FloatArray, prior: FloatArray, pull: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray] | None:
    """Regress details of components on those of bands in binomial windows of five pixels.

    Parameters
    ----------
    guide
        Details of the bands, shape (band, row, col), contiguous as all others.
    detail, components
        Details of the components and these themselves, shape (component, row, col).
    prior, pull
        Added to the matrices of the windows, shape (band, band), and to their right-hand sides, (band, component).
    noise
        Variance of unit white noise in a detail.

    Returns
    -------
    tuple or None
        Coefficients, shape (band, component, row, col), and the components without what noise alone would make of their
        unexplained detail, shape (component, row, col); None where there is no compiled path.
    """
    native = KERNELS.library()
    count, rows, cols = guide.shape
    if native is None or count > MOST_BANDS:
        return None
    rank = len(detail)
    coefficients, trusted = np.empty((count, rank, rows, cols), np.float32), np.empty(detail.shape, np.float32)
    failed = native.hsf_regress(
        _at(guide), _at(detail), _at(components), _INT(count), _INT(rank), _INT(rows), _INT(cols), _at(prior),
        _at(pull), _FLOAT(noise), _at(coefficients), _at(trusted),
    )  # fmt: skip
    if failed:
        raise MemoryBudgetError("There is no memory left to regress a tile.", hint="Choose a smaller --tile.")
    return coefficients, trusted
