"""What one block of a hyperspectral image says about each of its bands: sums, noise, stripes.

Noise and stripes are separated from the ground in two steps. A second difference along the row removes what
varies slowly in space; a regression on the two spectrally adjacent bands removes what they share, which is the
ground's texture, because bands 10 nm apart see nearly the same ground but not the same noise (the idea of Roger
and Arnold, Int. J. Remote Sensing 17, 1996). What is left is noise, which changes from row to row, and column
stripes, which do not: an analysis of variance over four rows tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED

FloatArray = NDArray[np.float64]

_STRIPE_ROWS = 4
"""Few enough that stripes of a map-projected (rotated) scene stay in their column."""
_SECOND_DIFFERENCE_GAIN = 1.5
"""Variance of x - (left + right) / 2 per variance of uncorrelated noise in x."""
_MIN_PIXELS = 256
_CLIP_SIGMA = 3.5
_CLIP_ROUNDS = 4


def typical_values(cube: NDArray[np.float32], valid: NDArray[np.bool_]) -> FloatArray:
    """Mean of each band of a block."""
    present = np.isfinite(cube) & valid
    total = np.where(present, cube, np.float32(0.0)).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(total / np.maximum(_counted(present), 1.0))


def _counted(marked: NDArray[np.bool_]) -> FloatArray:
    """How many pixels of each band are marked."""
    return np.asarray(np.count_nonzero(marked.reshape(len(marked), -1), axis=1), np.float64)


@dataclass(frozen=True)
class Block:
    """Sums of one block, arrays of shape (band,); ``pairs``: of adjacent bands, shape (6, band - 1)."""

    pixels: int
    error: FloatArray
    missing: FloatArray
    negative: FloatArray
    total: FloatArray
    present: FloatArray
    pairs: FloatArray
    spread: tuple[FloatArray, FloatArray] | None

    @classmethod
    def of(
        cls, cube: NDArray[np.float32], valid: NDArray[np.bool_], codes: NDArray[np.uint8] | None, offset: FloatArray
    ) -> Block:
        """Look at one block: cube and codes (band, row, col), valid (row, col), a typical value of each band."""
        pixels = int(valid.sum())
        present = np.isfinite(cube) & valid
        counts = _counted(present)
        negative = present & (np.less(cube, 0.0, where=present, out=np.zeros_like(present)))
        error = np.zeros(len(cube))
        if codes is not None:
            error += _counted((codes & (ERROR_INVALID_L1 | ERROR_SATURATED) != 0) & valid)
            negative |= (codes & ERROR_NEGATIVE != 0) & valid
        filled = np.where(present, cube, np.float32(0.0))
        total = filled.sum(axis=(1, 2), dtype=np.float64)
        pairs = _pairs(filled, present, offset)
        del filled
        spread = _noise_and_stripes(np.where(present, cube, np.float32("nan")))
        return cls(pixels, error, pixels - counts, _counted(negative), total, counts, pairs, spread)


def _pairs(filled: NDArray[np.float32], present: NDArray[np.bool_], offset: FloatArray) -> FloatArray:
    # Shifted by a typical value, so that single precision loses nothing in the squares.
    shifted = np.where(present, filled - offset[:, None, None].astype(np.float32), np.float32(0.0))
    pairs = np.zeros((6, len(filled) - 1))
    known, index = np.zeros_like(present[0]), np.zeros(0, np.int64)
    b, of_b = shifted[0][known], (0.0, 0.0)
    for k in range(len(filled) - 1):
        both = present[k] & present[k + 1]
        alike = np.array_equal(both, known)
        if not alike:
            known, index = both, np.flatnonzero(both)
        # Bands that are known at the same pixels: what was the second one of a pair is the first one of the next.
        a, of_a = (b, of_b) if alike else _moments(shifted[k], index)
        b, of_b = _moments(shifted[k + 1], index)
        pairs[:, k] = index.size, of_a[0], of_b[0], of_a[1], of_b[1], np.dot(a, b)
    return pairs


def _moments(
    image: NDArray[np.float32], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], tuple[float, float]]:  # fmt: skip
    """Some pixels of an image, their sum, and that of their squares."""
    some = image.ravel().take(index)
    return some, (float(some.sum(dtype=np.float64)), float(np.dot(some, some)))


def _noise_and_stripes(cube: NDArray[np.float32]) -> tuple[FloatArray, FloatArray] | None:
    """Standard deviation of noise and of column stripes per band of one block, or None when it is too small."""
    bands, rows, cols = cube.shape
    groups = rows // _STRIPE_ROWS
    if cols < 8 or groups < 1:
        return None
    detail = cube[:, : groups * _STRIPE_ROWS, 1:-1] - np.float32(0.5) * (
        cube[:, : groups * _STRIPE_ROWS, :-2] + cube[:, : groups * _STRIPE_ROWS, 2:]
    )
    known = np.isfinite(detail)
    if known.any(axis=0).sum() < _MIN_PIXELS:
        return None
    detail[~known] = 0.0
    first, second, weights = _adjacent_fit(detail)
    residual = detail
    if bands > 2:
        a, b = weights.astype(np.float32)
        residual = detail - a[:, None, None] * detail[first] - b[:, None, None] * detail[second]
    residual = residual.reshape(bands, groups, _STRIPE_ROWS, cols - 2)
    whole: NDArray[np.bool_] = np.all(known.reshape(residual.shape), axis=2)
    mean = residual.mean(axis=2)
    within = np.square(residual - mean[:, :, None, :]).sum(axis=2) / np.float32(_STRIPE_ROWS - 1)
    enough = _counted(whole) >= _MIN_PIXELS // _STRIPE_ROWS
    noise = _clipped_mean(within, whole)
    stripes = np.maximum(_clipped_mean(np.square(mean), whole) - noise / _STRIPE_ROWS, 0.0)
    noise = _own_share(noise, first, second, weights) / _SECOND_DIFFERENCE_GAIN
    stripes = _own_share(stripes, first, second, weights) / _SECOND_DIFFERENCE_GAIN
    return np.where(enough, np.sqrt(noise), np.nan), np.where(enough, np.sqrt(stripes), np.nan)


def _clipped_mean(squares: NDArray[np.float32], known: NDArray[np.bool_]) -> FloatArray:
    """Mean per band of squared deviations, without outliers.

    A sharp edge of the ground leaves a large deviation behind, which is neither noise nor stripe.
    """
    kept = known
    mean = np.zeros(squares.shape[0])
    for _ in range(_CLIP_ROUNDS):
        number = np.maximum(_counted(kept), 1.0)
        mean = np.einsum("bgc,bgc->b", squares, kept.astype(np.float32)).astype(np.float64) / number
        kept = known & (squares <= (_CLIP_SIGMA**2 * mean).astype(np.float32)[:, None, None])
    return mean


def _adjacent_fit(detail: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Least-squares weights of two neighbours for each band: their indices and weights, shape (2, band)."""
    bands = detail.shape[0]
    index = np.arange(bands)
    first, second = index - 1, index + 1
    if bands < 3:
        return index, index, np.zeros((2, bands))
    first[0], second[0] = 1, 2
    first[-1], second[-1] = bands - 2, bands - 3
    flat = detail.reshape(bands, -1)
    products = {step: np.einsum("bi,bi->b", flat[: bands - step], flat[step:]).astype(np.float64) for step in range(3)}

    def dot(i: NDArray[np.int64], j: NDArray[np.int64]) -> FloatArray:
        low, step = np.minimum(i, j), np.abs(i - j)
        result = np.zeros(i.size)
        for distance, values in products.items():
            chosen = step == distance
            result[chosen] = values[low[chosen]]
        return result

    aa, bb, ab = dot(first, first), dot(second, second), dot(first, second)
    ya, yb = dot(index, first), dot(index, second)
    # A trace of ridge keeps two identical or two empty neighbours solvable.
    ridge = 1e-6 * (aa + bb) + 1e-30
    determinant = (aa + ridge) * (bb + ridge) - ab**2
    weights = np.stack([(bb + ridge) * ya - ab * yb, (aa + ridge) * yb - ab * ya]) / determinant
    return first, second, weights


def _own_share(
    variance: FloatArray, first: NDArray[np.int64], second: NDArray[np.int64], weights: FloatArray
) -> FloatArray:
    """Remove the neighbours' noise from a residual's variance.

    The residual of band k holds its own variance plus that of its neighbours times the squared weights: a small
    linear system. At least a quarter of the residual's variance is left to the band itself.
    """
    # A damped fixed point instead of a direct solve: the system may be singular for bands that mirror each other.
    own = variance.copy()
    for _ in range(20):
        borrowed = weights[0] ** 2 * own[first] + weights[1] ** 2 * own[second]
        own = 0.5 * own + 0.5 * np.clip(variance - borrowed, 0.25 * variance, variance)
    return own
