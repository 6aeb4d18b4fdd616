"""The kernel of ``wiener.c`` for numpy arrays; :mod:`hsfuse.fusion.map.local_wiener` has its plain twin.

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

KERNELS = Kernels(plane_kernels("wiener"), "plain PyTorch")
_INT, _DOUBLE = ctypes.c_int64, ctypes.c_double


def local_wiener(
    image: FloatArray,
    *,
    step: int,
    blur: tuple[float, float],
    near: tuple[float, float],
    gain: float,
    softness: float,
    strongest: float,
) -> FloatArray | None:
    """Remove noise of unit variance; None where there is no compiled path.

    Parameters
    ----------
    image
        Shape (band, row, col), contiguous.
    step
        Side of a cell, pixels.
    blur, near
        Weights of a sample's neighbours and of itself: of the blur that leaves the detail, and of a cell's mean.
    gain
        Variance of unit noise in a detail.
    softness
        Added to the squares of the covariances, in units of the noise.
    strongest
        A cell's whole variance over this is added to that of every direction.
    """
    native = KERNELS.library()
    if native is None:
        return None
    out = np.empty(image.shape, np.float32)
    failed = native.hsf_local_wiener(
        _at(image), *map(_INT, image.shape), _INT(step), _at(np.array(blur, np.float32)),
        _at(np.array(near, np.float32)), _DOUBLE(gain), _DOUBLE(softness), _DOUBLE(strongest),
        _at(out),
    )  # fmt: skip
    if failed:
        raise MemoryBudgetError("There is no memory left to denoise a tile.", hint="Choose a smaller --tile.")
    return out
