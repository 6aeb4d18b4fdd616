"""The kernel of ``affine.c`` for numpy arrays; :mod:`hsfuse.fusion.change.local` has its plain twin.

Calls release the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at
from hsfuse.parallel import do_all, parts_of, threads_for

FloatArray = NDArray[np.float64]

KERNELS = Kernels(plane_kernels("affine", "row_solver.h"), "plain NumPy")
_MOST_THREADS, _WORTH_THREADS = 8, 200_000
"""Pixels of an image that are worth threads."""
_INT, _DOUBLE = ctypes.c_int64, ctypes.c_double


def local_affine(
    regressors: FloatArray, target: FloatArray, weight: FloatArray, asked: NDArray[np.bool_] | None,
    kernel: FloatArray, loading: float, own: float, coefficients: FloatArray, error: FloatArray,
) -> bool:  # fmt: skip
    """Regress in moving windows; return whether there is a compiled path.

    Parameters
    ----------
    regressors, target
        Shapes (regressor, row, col) and (band, row, col), contiguous as all others.
    weight
        Trust in each pixel, shape (row, col).
    asked
        Pixels that are wanted, the same shape; None: all.
    kernel
        Middle of the windows' filter, and the weights on either side of it.
    loading
        Added to the diagonals of the windows' matrices.
    own
        Weight of a pixel in its own window.
    coefficients
        Is written to where pixels are asked for, shape (band, regressor, row, col).
    error
        The same, of the leave-one-out residuals, shape (band, row, col).
    """
    native = KERNELS.library()
    if native is None:
        return False
    size, rows, cols = regressors.shape

    def regress(part: slice) -> None:
        failed = native.hsf_local_affine(
            _at(regressors), _at(target), _at(weight), _at(asked), _INT(size), _INT(len(target)), _INT(rows),
            _INT(cols), _INT(part.start), _INT(part.stop), _at(kernel), _INT(kernel.size - 1), _DOUBLE(loading),
            _DOUBLE(own), _at(coefficients), _at(error),
        )  # fmt: skip
        if failed:
            raise MemoryBudgetError("There is no memory left to correct the guide.", hint="Use --quality plain.")

    threads = threads_for(_MOST_THREADS) if rows * cols >= _WORTH_THREADS else 1
    do_all(regress, parts_of(rows, threads), threads)
    return True
