"""The kernels of ``match.c`` for numpy arrays; :mod:`hsfuse.coregister.refine` has their plain twins.

The others must be called only where :func:`serves` says so. Calls release the interpreter's lock,
so plain threads run side by side.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

KERNELS = Kernels(plane_kernels("match"), "plain PyTorch")
MODES = ("fit", "resemblance", "shift")
STRIP_PX = 24
"""Sums over a part of the rows begin at a multiple of so many."""
_INT, _DOUBLE, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def match_library() -> ctypes.CDLL | None:
    """Return the kernels, building them on first use; None where that is not possible."""
    return KERNELS.library()


def serves(device: str) -> bool:
    """Tell whether the kernels can work on arrays of a kind of device (``cpu``, ``cuda``)."""
    return device == "cpu" and match_library() is not None


def convolve(image: FloatArray, taps: FloatArray) -> FloatArray:
    """Symmetric separable convolution of an image (row, col) with zeros outside.

    ``taps`` holds the middle weight and those after it.
    """
    out = np.empty_like(image)
    _call("hsf_flatten", image, None, None, taps, _INT(taps.size - 1), *_shape(image), _DOUBLE(1.0), out)
    return out


def flatten(
    image: FloatArray, mask: FloatArray, total: FloatArray, taps: FloatArray, count: float, out: FloatArray
) -> None:
    """Write an image without its local mean over a mask, and of unit variance over the mask's ``count`` pixels.

    ``total`` is the mask's own convolution plus what keeps it from being zero; all have shape (row, col).
    """
    _call("hsf_flatten", image, mask, total, taps, _INT(taps.size - 1), *_shape(image), _DOUBLE(count), out)


def displaced(
    reference: FloatArray,
    displacement: FloatArray,
    rows: slice,
    margin: float,
    finer: float,
    out: FloatArray,
    known: NDArray[np.bool_],
) -> None:
    """Evaluate the cubic B-splines whose coefficients are an image, at displaced pixels of a coarser grid.

    Parameters
    ----------
    reference
        Shape (channel, row, col), NaN in all channels where it is in the first.
    displacement
        Shape (2, row, col): along rows and columns, in pixels of the coarser grid.
    rows
        Rows to fill.
    margin
        Coarse pixels by which the reference reaches further.
    finer
        Samples per coarse pixel.
    out, known
        Shapes (channel, row, col) and (row, col): 0 and False where a sample is missing.
    """
    _call(
        "hsf_displaced", reference, _INT(len(reference)), *_shape(reference), displacement, *_shape(known),
        _INT(rows.start), _INT(rows.stop), _DOUBLE(margin), _DOUBLE(finer), out, known,
    )  # fmt: skip


@dataclass(frozen=True)
class Lattice:
    """Separable windows and the interpolation between them, as the kernels want them.

    Attributes
    ----------
    down, across
        Window profiles, shapes (window, row) and (window, col).
    down_span, across_span
        First pixel of each profile and the one behind its last, shape (window, 2).
    near, near_weight
        For each row the first of the two windows that its values come from, and their weights, shape (row, 2).
    """

    down: FloatArray
    across: FloatArray
    down_span: IntArray
    across_span: IntArray
    near: IntArray
    near_weight: FloatArray

    @classmethod
    def of(cls, down: FloatArray, across: FloatArray, up: FloatArray) -> Lattice:
        """From profiles, and the matrix (row, window) that brings values at the windows to rows."""
        up = np.pad(up, ((0, 0), (0, 1)))
        near = np.minimum((up != 0).argmax(axis=1), up.shape[1] - 2)
        row = np.arange(len(up))
        weight = np.stack([up[row, near], up[row, near + 1]], axis=1)
        return cls(
            np.ascontiguousarray(down), np.ascontiguousarray(across), _spans(down), _spans(across),
            near.astype(np.int64), np.ascontiguousarray(weight, dtype=np.float32),
        )  # fmt: skip


class _Sums(ctypes.Structure):
    """``Sums`` of match.c."""

    _fields_ = (
        *((name, _INT) for name in ("mode", "channels", "planes", "rows", "cols", "top", "bottom")),
        *((name, _POINTER) for name in ("target", "reference", "mask", "inner", "coefficients", "variance")),
        ("near", _POINTER), ("near_weight", _POINTER), ("down", _INT), ("across", _INT), ("down_span", _POINTER),
        ("down_weight", _POINTER), ("across_span", _POINTER), ("across_weight", _POINTER), ("sums", _POINTER),
        ("scores", _POINTER), ("block", _INT),
    )  # fmt: skip


def window_sums(
    mode: str,
    lattice: Lattice,
    rows: slice,
    target: FloatArray,
    reference: FloatArray,
    mask: FloatArray,
    inner: NDArray[np.bool_],
    model: tuple[FloatArray, FloatArray] | None,
    sums: NDArray[np.float64],
    scores: FloatArray | None = None,
    block_px: int = STRIP_PX,
) -> None:
    """Add the share of some rows to the weighted sums of products over all windows.

    Parameters
    ----------
    mode
        Which products, see ``MODES``.
    lattice
        The windows.
    rows
        Rows whose share is added; they begin at a multiple of ``STRIP_PX``.
    target, reference
        Shapes (channel, row, col) and (plane, row, col).
    mask
        Pixels that count, shape (row, col).
    inner
        Pixels around which two more are known.
    model
        Coefficients (channel, plane + 1, window down, col) and residual variance (channel, window down, col) that give
        the pixels their weights; None weighs all alike.
    sums
        Shape (product, window down, window across).
    scores
        Sums over blocks of ``block_px``, shape (channel * (plane + 3), block row, block col).
    """
    coefficients, variance = model if model is not None else (None, None)
    pointers = (target, reference, mask, inner, coefficients, variance, lattice.near, lattice.near_weight)
    facts = _Sums(
        MODES.index(mode), len(target), len(reference), *mask.shape, rows.start, rows.stop, *map(_at, pointers),
        len(lattice.down), len(lattice.across), _at(lattice.down_span), _at(lattice.down), _at(lattice.across_span),
        _at(lattice.across), _at(sums), _at(scores), block_px,
    )  # fmt: skip
    _call("hsf_window_sums", ctypes.byref(facts))


def _spans(profiles: FloatArray) -> IntArray:
    some = profiles != 0
    ends = np.stack([some.argmax(axis=1), profiles.shape[1] - some[:, ::-1].argmax(axis=1)], axis=1)
    ends[~some.any(axis=1)] = 0
    return ends.astype(np.int64)


def _shape(image: NDArray[Any]) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return _INT(image.shape[-2]), _INT(image.shape[-1])


def _at(array: NDArray[Any] | None) -> int | None:
    if array is not None and not array.flags.c_contiguous:
        raise ValueError("kernels need contiguous arrays")
    return None if array is None else array.ctypes.data


def _call(name: str, *arguments: Any) -> None:
    library = match_library()
    if library is None:
        raise RuntimeError("there are no compiled kernels")
    given = [_POINTER(_at(a)) if a is None or isinstance(a, np.ndarray) else a for a in arguments]
    if getattr(library, name)(*given):
        raise MemoryBudgetError("There is no memory left to match images.", hint="Close other programs.")
