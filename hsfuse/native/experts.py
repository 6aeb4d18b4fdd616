"""The kernels of ``experts.c`` for numpy arrays; each returns False where there is no compiled path.

The callers then take their plain twins: :mod:`hsfuse.fusion.experts.regressions` and the gate's network. Calls release
the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at

FloatArray = NDArray[np.float32]

KERNELS = Kernels(plane_kernels("experts"), "plain PyTorch")
_INT, _FLOAT = ctypes.c_int64, ctypes.c_float


def fourier(
    x: FloatArray, frequency: FloatArray, phase: FloatArray, weight: FloatArray, linear: FloatArray,
    constant: FloatArray, out: FloatArray,
) -> bool:  # fmt: skip
    """Predict ``weight cos(2 pi (frequency x + phase)) - linear x - constant``.

    Parameters
    ----------
    x
        Shape (regressor, pixel), contiguous like all others.
    frequency, phase
        In turns, shapes (feature, regressor) and (feature,).
    weight, linear, constant
        Shapes (target, feature), (target, regressor) and (target,).
    out
        Shape (target, pixel), pixels side by side; targets may lie apart.

    Returns
    -------
    bool
        False where there is no compiled path; ``out`` is untouched then.
    """
    native = KERNELS.library()
    if native is None:
        return False
    regressors, pixels = x.shape
    _check(
        native.hsf_fourier(
            _at(x), _INT(regressors), _INT(pixels), _at(frequency), _at(phase), _INT(len(frequency)), _at(weight),
            _at(linear), _at(constant), _INT(len(weight)), _at(out), _INT(out.strides[0] // 4),
        )
    )  # fmt: skip
    return True


def classes(x: FloatArray, centre: FloatArray, level: FloatArray, weight: FloatArray, out: FloatArray) -> bool:
    """Predict by linear regressions of classes whose shares are the softmax of ``centre x + level``.

    Parameters
    ----------
    x
        Shape (regressor, pixel), contiguous like all others.
    centre, level
        Shapes (class, regressor) and (class,).
    weight
        Shape (target, class, regressor + 1), the last one the constant.
    out
        Shape (target, pixel), pixels side by side; targets may lie apart.

    Returns
    -------
    bool
        As :func:`fourier`.
    """
    native = KERNELS.library()
    if native is None:
        return False
    regressors, pixels = x.shape
    _check(
        native.hsf_classes(
            _at(x), _INT(regressors), _INT(pixels), _at(centre), _at(level), _INT(len(centre)), _at(weight),
            _INT(len(weight)), _at(out), _INT(out.strides[0] // 4),
        )
    )  # fmt: skip
    return True


def gate_features(
    state: FloatArray, outputs: FloatArray, present: Sequence[int], compared: Sequence[int], asked: Sequence[int],
    out: NDArray[np.generic],
) -> bool:  # fmt: skip
    """Norms of the experts' outputs and products with some of them, as the gate sees them.

    Parameters
    ----------
    state, outputs
        Whole rows of images, shapes (component, row, col) and (expert, component, row, col).
    present
        Components that count.
    compared
        Experts with which products are made.
    asked
        Experts that are looked at, ascending.
    out
        Shape (row, col, channel), float32, or bfloat16 as 16-bit integers; channels side by side. The first
        (1 + compared) * (1 + expert) channels are those that are made; where an expert is not asked they stay.

    Returns
    -------
    bool
        As :func:`fourier`.
    """
    native = KERNELS.library()
    if native is None:
        return False
    here, those = np.array(present, np.int64), np.array(asked, np.int64)
    others = np.array([index if index in asked else -1 for index in compared], np.int64)
    experts, components, rows, cols = outputs.shape
    size, channels = out.itemsize, out.shape[2]
    row, pixel, one = (stride // size for stride in out.strides)
    beside = one == 1 and pixel == channels and row % pixel == 0
    if size not in (2, 4) or not beside or channels < (1 + others.size) * (1 + experts):
        raise ValueError("features do not lie side by side")
    _check(
        native.hsf_gate_features(
            _at(state), _at(outputs), _INT(experts), _at(those), _INT(those.size), _INT(components), _INT(rows * cols),
            _INT(_plane(state)), _INT(_plane(outputs)), _at(here), _INT(here.size), _at(others), _INT(others.size),
            _at(out), _INT(cols), _INT(row // pixel), _INT(channels), ctypes.c_int32(size == 2),
        )
    )  # fmt: skip
    return True


def gate_applied(
    found: FloatArray, outputs: FloatArray, slope: FloatArray, most: float, asked: Sequence[int], out: FloatArray
) -> bool:
    """Weigh the experts' outputs: the sum of ``2 tanh((a + b slope) / 2) most tanh(output / most)``.

    Parameters
    ----------
    found
        a of every expert, then b, shape (2 * expert, row, col), contiguous.
    outputs
        Whole rows of images, shape (expert, component, row, col).
    slope
        Shape (component,).
    most
        Outputs beyond are compressed.
    asked
        Experts that are weighed.
    out
        Shape (component, row, col), contiguous.

    Returns
    -------
    bool
        As :func:`fourier`.
    """
    native = KERNELS.library()
    if native is None:
        return False
    experts, components, rows, cols = outputs.shape
    those = np.array(asked, np.int64)
    _check(
        native.hsf_gate_applied(
            _at(found), _at(outputs), _at(slope), _INT(experts), _at(those), _INT(those.size), _INT(components),
            _INT(rows * cols), _INT(_plane(outputs)), _FLOAT(most), _at(out),
        )
    )  # fmt: skip
    return True


def _plane(images: FloatArray) -> int:
    """How far apart the images (..., row, col) begin, floats; rows lie one behind the other in each."""
    steps = [stride // 4 for stride in images.strides]
    plane, row, one = steps[-3:]
    beyond = images.ndim > 3 and steps[-4] != images.shape[-3] * plane
    if one != 1 or row != images.shape[-1] or beyond:
        raise ValueError("not whole rows of images that lie one behind the other")
    return plane


def _check(failed: int) -> None:
    if failed:
        raise MemoryBudgetError("There is not enough memory to weigh experts.", hint="Choose a smaller --tile.")
