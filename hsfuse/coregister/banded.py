"""Cholesky factors of symmetric banded matrices, by SciPy's LAPACK without holding the interpreter's lock.

:func:`scipy.linalg.cholesky_banded` and its solver keep the lock while they compute, so that threads would wait for
each other. Here the same routines are called as plain functions of the library, with the same results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.linalg import cython_lapack

FloatArray = NDArray[np.float64]

_UPPER = b"U"


def factor_banded(matrix: FloatArray) -> FloatArray:
    """Factor a positive definite matrix.

    Parameters
    ----------
    matrix
        Upper part in LAPACK's banded storage, shape (bandwidth + 1, size).

    Returns
    -------
    numpy.ndarray
        Upper factor in the same storage.

    Raises
    ------
    numpy.linalg.LinAlgError
        It is not positive definite.
    """
    routine = _routine("dpbtrf")
    if routine is None:
        return np.asarray(scipy.linalg.cholesky_banded(matrix, check_finite=False))
    factor = np.array(matrix, np.float64, order="F")
    rows, size = factor.shape
    failed = routine(_UPPER, size, rows - 1, factor, rows)
    if failed:
        raise np.linalg.LinAlgError(f"{failed}-th leading minor not positive definite")
    return factor


def solve_banded(factor: FloatArray, right: FloatArray) -> FloatArray:
    """Solve for right sides of shape (size, count) with a factor of :func:`factor_banded`."""
    routine = _routine("dpbtrs")
    if routine is None:
        return np.asarray(scipy.linalg.cho_solve_banded((factor, False), right, check_finite=False))
    factor, solved = np.asfortranarray(factor), np.array(right, np.float64, order="F")
    rows, size = factor.shape
    routine(_UPPER, size, rows - 1, solved.shape[1], factor, rows, solved, size)
    return solved


@cache
def _routine(name: str) -> Callable[..., int] | None:
    """Return a routine of SciPy's LAPACK that takes numbers and arrays and returns its ``info``; None without it."""
    capsule = getattr(cython_lapack, "__pyx_capi__", {}).get(name)
    if capsule is None:
        return None
    interface = ctypes.pythonapi
    name_of, pointer_of = interface.PyCapsule_GetName, interface.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature: bytes = name_of(capsule)
    if b"int *" not in signature or b"long" in signature:
        return None
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (signature.count(b",") + 1))(pointer_of(capsule, signature))

    def call(*arguments: Any) -> int:
        info = ctypes.c_int(0)
        given = [_reference(argument) for argument in arguments]
        function(*(ctypes.cast(each, ctypes.c_void_p) for each in given), ctypes.byref(info))
        return info.value

    return call


def _reference(argument: Any) -> Any:
    """Pass an argument as Fortran does: by its address."""
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data_as(ctypes.c_void_p)
    return ctypes.pointer(ctypes.c_int(argument)) if isinstance(argument, int) else ctypes.c_char_p(argument)
