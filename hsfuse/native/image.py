"""The kernels of ``image.c`` for numpy arrays; each returns None where there is no compiled path.

The callers then take their plain twins: :mod:`hsfuse.degrade`, :mod:`hsfuse.coregister.warp`,
:mod:`hsfuse.writers.encoding`. Calls release the interpreter's lock, so plain threads run side by side.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.native.build import Kernels, plane_kernels
from hsfuse.native.build import pointer as _at
from hsfuse.parallel import do_all, parts_of, side_by_side, threads_for

FloatArray = NDArray[np.float32]

KERNELS = Kernels(plane_kernels("image"), "plain NumPy and PyTorch")
_LANE = 16
"""Numbers of a vector."""
_MOST_THREADS, _WORTH_THREADS = 8, 4_000_000
"""Samples of a result that are worth threads."""
_INT, _FLOAT, _DOUBLE, _FLAG = ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_int32


def image_library() -> ctypes.CDLL | None:
    """Return the kernels, building them on first use; None where that is not possible."""
    return KERNELS.library()


def mix(matrix: FloatArray, planes: FloatArray, out: FloatArray) -> bool:
    """Multiply planes by a matrix of a few rows and columns; False where there is no compiled path.

    Parameters
    ----------
    matrix
        Shape (row, plane), contiguous.
    planes
        Shape (plane, sample), unit stride along samples.
    out
        Shape (row, sample), contiguous.
    """
    native = image_library()
    if native is None:
        return False
    native.hsf_mix(
        _at(matrix), _INT(matrix.shape[0]), _INT(matrix.shape[1]), _at(planes), _INT(planes.strides[0] // 4),
        _INT(planes.shape[1]), _at(out),
    )  # fmt: skip
    return True


def decimate(x: FloatArray, ratio: int, rows: FloatArray, cols: FloatArray) -> FloatArray | None:
    """Filter planes with one kernel per axis and keep the samples at the coarse pixels' centres.

    Parameters
    ----------
    x
        Shape (plane, row, col), contiguous; rows and columns are multiples of ``ratio``.
    ratio
        Fine pixels per coarse pixel; 1 smooths.
    rows, cols
        Weights along each axis, of equal number, which has the ratio's parity.
    """
    native = image_library()
    if native is None:
        return None
    planes, height, width = x.shape
    out = np.empty((planes, height // ratio, width // ratio), np.float32)
    _check(
        native.hsf_decimate(
            _at(x), _INT(planes), _INT(height), _INT(width), _INT(ratio), _INT(rows.size), _at(rows), _at(cols),
            _at(out),
        )
    )  # fmt: skip
    return out


def spread(
    x: FloatArray, ratio: int, down: tuple[NDArray[np.int64], FloatArray], across: tuple[NDArray[np.int64], FloatArray],
    rows: slice,
) -> FloatArray | None:  # fmt: skip
    """Spread planes to a grid ``ratio`` times finer: the transpose of :func:`decimate`.

    Parameters
    ----------
    x
        Shape (plane, row, col), contiguous.
    ratio
        Fine pixels per coarse pixel.
    down, across
        Of each axis the first coarse sample that a phase looks at, counted from its own, shape (ratio,), and the
        weights of that sample and those behind it, shape (ratio, tap, coarse sample).
    rows
        Of the fine grid that are wanted.
    """
    native = image_library()
    if native is None:
        return None
    planes, height, width = x.shape
    out = np.empty((planes, rows.stop - rows.start, width * ratio), np.float32)
    side = max(
        max(-int(first.min()), int(first.max()) + weights.shape[1] - 1) for first, weights in (down, across)
    )  # fmt: skip
    _check(
        native.hsf_spread(
            _at(x), _INT(planes), _INT(height), _INT(width), _INT(ratio), _INT(max(side, 1)), _at(down[0]),
            _at(down[1]), _INT(down[1].shape[1]), _at(across[0]), _at(across[1]), _INT(across[1].shape[1]),
            _INT(rows.start), _INT(rows.stop), _at(out),
        )
    )  # fmt: skip
    return out


def upsample(x: FloatArray, ratio: int, weights: FloatArray) -> FloatArray | None:
    """Interpolate planes to a grid ``ratio`` times finer.

    Parameters
    ----------
    x
        Shape (plane, row, col), contiguous.
    ratio
        Fine pixels per coarse pixel.
    weights
        Shape (2, ratio, 5): weights of the 5 nearest coarse pixels for each phase, down the rows and along the columns.
    """
    out = np.empty((x.shape[0], x.shape[1] * ratio, x.shape[2] * ratio), np.float32)
    window = (slice(0, x.shape[1]), slice(0, x.shape[2]))
    return out if inject(x, None, None, window, ratio, weights, out) else None


def inject(
    base: FloatArray,
    coefficients: FloatArray | None,
    details: FloatArray | None,
    window: tuple[slice, slice],
    ratio: int,
    weights: FloatArray,
    out: FloatArray,
    *,
    add: bool = False,
) -> bool:
    """Interpolate planes and add products of interpolated coefficients with fine images, into ``out``.

    ``out[k] = up(base[k]) + sum over m of up(coefficients[m, k]) * details[m]``

    Parameters
    ----------
    base
        Shape (plane, row, col), contiguous.
    coefficients
        Shape (term, plane, row, col), contiguous; None for plain interpolation.
    details
        Shape (term, window row * ratio, window col * ratio), unit stride along columns.
    window
        Rows and columns of the coarse grid that are wanted.
    ratio, weights
        As for :func:`upsample`.
    out
        Shape (plane, window row * ratio, window col * ratio), unit stride along columns.
    add
        Add to what ``out`` holds.

    Returns
    -------
    bool
        False where there is no compiled path; ``out`` is untouched then.
    """
    native = image_library()
    if native is None:
        return False
    planes, height, width = base.shape
    terms = 0 if coefficients is None else coefficients.shape[0]
    rows, cols = window
    details_plane, details_row = (0, 0) if details is None else (details.strides[0] // 4, details.strides[1] // 4)
    _check(
        native.hsf_inject(
            _at(base), _at(coefficients), _INT(terms), _at(details), _INT(details_plane), _INT(details_row),
            _INT(planes), _INT(height), _INT(width), _INT(rows.start), _INT(rows.stop), _INT(cols.start),
            _INT(cols.stop), _INT(ratio), _at(weights), _FLAG(add), _at(out), _INT(out.strides[0] // 4),
            _INT(out.strides[1] // 4),
        )
    )  # fmt: skip
    return True


def lowpass(
    values: FloatArray,
    rows: tuple[NDArray[np.int64], FloatArray],
    cols: tuple[NDArray[np.int64], FloatArray],
    fewest: float,
    out: FloatArray,
) -> bool:
    """Weighted means of planes around positions of another grid; NaN marks missing samples.

    Parameters
    ----------
    values
        Shape (plane, row, col), unit stride along columns. A pixel counts where all planes are finite.
    rows, cols
        For each output row (column) the first row (column) that is weighed, and the weights, shape (output, tap),
        contiguous. What lies outside of the planes weighs nothing.
    fewest
        Sum of weights below which the output is NaN.
    out
        Shape (plane, output row, output col), unit stride along columns.

    Returns
    -------
    bool
        False where there is no compiled path; ``out`` is untouched then.
    """
    native = image_library()
    if native is None:
        return False
    planes, height, width = values.shape
    along = (_at(rows[0]), _at(rows[1]), _INT(rows[1].shape[1]), _INT(rows[0].size))
    across = (_at(cols[0]), _at(cols[1]), _INT(cols[1].shape[1]), _INT(cols[0].size))
    _check(
        native.hsf_lowpass(
            _at(values), _INT(planes), _INT(height), _INT(width), _INT(values.strides[0] // 4),
            _INT(values.strides[1] // 4), *along, *across, _FLOAT(fewest), _at(out), _INT(out.strides[0] // 4),
            _INT(out.strides[1] // 4),
        )
    )  # fmt: skip
    return True


def warp(
    cube: FloatArray, at_row: NDArray[np.float64], at_col: NDArray[np.float64], tolerated: float, out: FloatArray
) -> bool:
    """Resample a cube by cubic convolution at fractional positions; NaN marks missing samples.

    Parameters
    ----------
    cube
        Shape (band, row, col), unit stride along columns.
    at_row, at_col
        Positions in the cube, contiguous, shape (pixel,).
    tolerated
        Share of a sample's absolute weight that may be missing; beyond it the sample is NaN.
    out
        Shape (band, pixel), unit stride along pixels.

    Returns
    -------
    bool
        False where there is no compiled path; ``out`` is untouched then.
    """
    native = image_library()
    if native is None:
        return False
    bands, rows, cols = cube.shape
    lane = -(-bands // _LANE) * _LANE
    # Vectors of 64 bytes are loaded from where they begin.
    memory = np.empty(rows * cols * lane + _LANE, np.float32)
    first = -memory.ctypes.data % (4 * _LANE) // 4
    pixels, state = memory[first:], np.empty(rows * cols, np.uint8)
    threads = threads_for(_MOST_THREADS) if out.size >= _WORTH_THREADS else 1

    def gather(part: slice) -> None:
        native.hsf_warp_gather(
            _at(cube), _INT(bands), _INT(cols), _INT(cube.strides[0] // 4), _INT(cube.strides[1] // 4),
            _INT(part.start), _INT(part.stop), _at(pixels), _at(state),
        )  # fmt: skip

    def resample(part: slice) -> int:
        return int(
            native.hsf_warp(
                _at(pixels), _at(state), _INT(bands), _INT(rows), _INT(cols), _at(at_row), _at(at_col),
                _INT(part.start), _INT(part.stop), _DOUBLE(tolerated), _at(out), _INT(out.strides[0] // 4),
            )
        )  # fmt: skip

    do_all(gather, parts_of(rows, threads), threads)
    _check(max(side_by_side(resample, parts_of(at_row.size, threads), threads), default=0))
    return True


def encode(
    values: FloatArray,
    valid: NDArray[np.bool_],
    limits: tuple[float, float] | None,
    scale: float,
    stored: tuple[float, float, float],
    out: NDArray[Any],
) -> int | None:
    """Turn reflectance into 16-bit samples.

    Parameters
    ----------
    values
        Shape (band, row, col), unit stride along columns.
    valid
        Pixels that carry data, shape (row, col), unit stride along columns.
    limits
        Values outside are counted and cut off; None: neither.
    scale
        Stored number per unit.
    stored
        Lowest and highest stored number, and that for no data.
    out
        ``int16`` or ``uint16``, shape (band, row, col), unit stride along columns.

    Returns
    -------
    int or None
        Samples outside the limits; None where there is no compiled path.
    """
    native = image_library()
    if native is None:
        return None
    bands, rows, cols = values.shape
    low, high = limits if limits is not None else (-np.inf, np.inf)
    lowest, highest, nodata = stored
    native.hsf_encode.restype = _INT
    count = native.hsf_encode(
        _at(values), _INT(values.strides[0] // 4), _INT(values.strides[1] // 4), _INT(bands), _INT(rows), _INT(cols),
        _at(valid), _INT(valid.strides[0]), _FLOAT(low), _FLOAT(high), _FLAG(limits is not None), _DOUBLE(scale),
        _DOUBLE(lowest), _DOUBLE(highest), _FLAG(int(nodata)), _at(out), _INT(out.strides[0] // 2),
        _INT(out.strides[1] // 2),
    )  # fmt: skip
    return int(count)


def _check(result: int) -> None:
    if result:
        raise MemoryBudgetError("There is no memory left for an image operation.", hint="Use smaller tiles.")
