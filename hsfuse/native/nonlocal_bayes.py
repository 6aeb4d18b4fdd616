"""The kernel of ``nonlocal.c`` for numpy arrays; :mod:`hsfuse.fusion.map.nonlocal_bayes` has its plain twin.

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

KERNELS = Kernels(plane_kernels("nonlocal", "nonlocal_batch.h"), "plain PyTorch")
_INT, _FLOAT = ctypes.c_int64, ctypes.c_float


def filter_pass(
    image: FloatArray, basic: FloatArray | None, *, similar: int, reach: int, step: int, shrink: float,
    used: NDArray[np.bool_] | None = None,
) -> FloatArray | None:  # fmt: skip
    """Denoise once; None where there is no compiled path.

    Parameters
    ----------
    image
        Noise of unit variance, shape (row, col, band), contiguous, at least 3 x 3 pixels.
    basic
        Result of the first pass, the same shape; None in the first.
    similar, reach, step
        Patches in a group, reach of the search and distance of reference patches, pixels.
    shrink
        Of the first pass, see :mod:`hsfuse.fusion.map.nonlocal_bayes`.
    used
        Pixels at which reference patches may begin, shape (row, col), contiguous; None: all. What no group covers is 0.
    """
    native = KERNELS.library()
    if native is None:
        return None
    rows, cols, bands = image.shape
    total, norm = np.zeros_like(image), np.zeros((rows, cols), np.float32)
    failed = native.hsf_nonlocal(
        _at(image), _at(basic), _at(used), _INT(rows), _INT(cols), _INT(bands), _INT(similar), _INT(reach), _INT(step),
        _FLOAT(shrink), _at(total), _at(norm),
    )  # fmt: skip
    if failed:
        raise MemoryBudgetError("There is not enough memory to denoise a tile.", hint="Choose a smaller --tile.")
    total /= np.maximum(norm, np.float32(1e-6))[..., None]
    return total
