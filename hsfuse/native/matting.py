"""The kernel of ``matting.c`` for numpy arrays; :mod:`hsfuse.fusion.change.matting` has its plain twin.

Calls release the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at

if TYPE_CHECKING:
    import scipy.sparse as sp

FloatArray = NDArray[np.float32]

KERNELS = Kernels(plane_kernels("matting"), "plain NumPy")
_INT = ctypes.c_int64


def normal_equations(
    x: FloatArray, near: FloatArray, sparse: FloatArray, smooth: Sequence[FloatArray], amplitude: FloatArray,
    precision: FloatArray, response: Sequence[sp.csr_matrix], out: FloatArray,
) -> bool:  # fmt: skip
    """Apply the matting's normal equations; return whether there is a compiled path.

    Parameters
    ----------
    x
        Shape (row, col), contiguous as all others, single precision.
    near
        1 where shares are unknown, 0 elsewhere, the same shape.
    sparse
        Weights of the shares, the same shape.
    smooth
        Weights of the differences between neighbours beside each other, one below the other, and along both diagonals,
        shapes (row, col - 1), (row - 1, col) and twice (row - 1, col - 1).
    amplitude
        Shape (row, band, col).
    precision
        Shape (coarse col, coarse row, band).
    response
        Matrices of the blur along the columns, shape (coarse col, col), and the transposes of those along the rows and
        along the columns, with indices of 32 bits.
    out
        Is written to, the shape of ``x``.
    """
    native = KERNELS.library()
    if native is None:
        return False
    rows, bands, cols = amplitude.shape
    weights = (ctypes.c_void_p * len(smooth))(*(weight.ctypes.data for weight in smooth))
    matrices = [_at(part) for matrix in response for part in (matrix.indptr, matrix.indices, matrix.data)]
    failed = native.hsf_matting(
        _at(x), _at(near), _at(sparse), weights, _at(amplitude), _at(precision), _INT(rows), _INT(cols),
        _INT(precision.shape[1]), _INT(precision.shape[0]), _INT(bands), *matrices, _at(out),
    )  # fmt: skip
    if failed:
        raise MemoryBudgetError("There is no memory left to find changes.", hint="Use --quality plain.")
    return True
