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
_BANDS_AT_ONCE = 24
"""They stay in the processor's cache."""
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
        pixels, bands = int(valid.sum()), len(cube)
        present = np.isfinite(cube)
        present &= valid
        counts = _counted(present)
        error, below, total = np.zeros((3, bands))
        for first in range(0, bands, _BANDS_AT_ONCE):
            part = slice(first, first + _BANDS_AT_ONCE)
            seen, some = cube[part], present[part]
            negative = some & (np.less(seen, 0.0, where=some, out=np.zeros_like(some)))
            if codes is not None:
                marked = codes[part]
                error[part] = _counted((marked & (ERROR_INVALID_L1 | ERROR_SATURATED) != 0) & valid)
                negative |= (marked & ERROR_NEGATIVE != 0) & valid
            below[part] = _counted(negative)
            total[part] = np.where(some, seen, np.float32(0.0)).sum(axis=(1, 2), dtype=np.float64)
        pairs = _pairs(cube, present, offset)
        return cls(pixels, error, pixels - counts, below, total, counts, pairs, _noise_and_stripes(cube, present))


def _pairs(cube: NDArray[np.float32], present: NDArray[np.bool_], offset: FloatArray) -> FloatArray:
    # Shifted by a typical value, so that single precision loses nothing in the squares.
    shift = offset.astype(np.float32)
    pairs = np.zeros((6, len(cube) - 1))
    known, index = np.zeros_like(present[0]), np.zeros(0, np.int64)
    b, of_b = np.zeros(0, np.float32), (0.0, 0.0)
    for k in range(len(cube) - 1):
        both = present[k] & present[k + 1]
        alike = np.array_equal(both, known)
        if not alike:
            known, index = both, np.flatnonzero(both)
        # Bands that are known at the same pixels: what was the second one of a pair is the first one of the next.
        a, of_a = (b, of_b) if alike else _moments(cube[k], index, shift[k])
        b, of_b = _moments(cube[k + 1], index, shift[k + 1])
        pairs[:, k] = index.size, of_a[0], of_b[0], of_a[1], of_b[1], np.dot(a, b)
    return pairs


def _moments(
    image: NDArray[np.float32], index: NDArray[np.int64], shift: np.float32
) -> tuple[NDArray[np.float32], tuple[float, float]]:  # fmt: skip
    """Some pixels of an image less a number, their sum, and that of their squares."""
    some = image.ravel().take(index)
    some -= shift
    return some, (float(some.sum(dtype=np.float64)), float(np.dot(some, some)))


def _noise_and_stripes(
    cube: NDArray[np.float32], present: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray] | None:  # fmt: skip
    """Standard deviation of noise and of column stripes per band of one block, or None when it is too small."""
    bands, rows, cols = cube.shape
    groups = rows // _STRIPE_ROWS
    if cols < 8 or groups < 1:
        return None
    seen = np.zeros((groups * _STRIPE_ROWS, cols - 2), np.bool_)
    first, second = _neighbours(bands)
    weights, (noise, stripes, wholes) = np.zeros((2, bands)), np.zeros((3, bands))
    for start in range(0, bands, _BANDS_AT_ONCE):
        part = slice(start, min(start + _BANDS_AT_ONCE, bands))
        # With the neighbours of the outermost bands.
        low, high = max(min(part.start, bands - 1) - 2, 0), min(part.stop + 2, bands)
        wide, own = slice(low, high), slice(part.start - low, part.stop - low)
        detail, known = _detail(cube[wide, : len(seen)], present[wide, : len(seen)])
        seen |= known[own].any(axis=0)
        residual = detail[own]
        if bands > 2:
            near = first[part] - low, second[part] - low
            weights[:, part] = a, b = _adjacent_fit(detail, np.arange(own.start, own.stop), *near)
            residual = (
                residual
                - a.astype(np.float32)[:, None, None] * detail[near[0]]
                - b.astype(np.float32)[:, None, None] * detail[near[1]]
            )
        residual = residual.reshape(-1, groups, _STRIPE_ROWS, cols - 2)
        whole: NDArray[np.bool_] = np.all(known[own].reshape(residual.shape), axis=2)
        mean = residual.mean(axis=2)
        within = np.square(residual - mean[:, :, None, :]).sum(axis=2) / np.float32(_STRIPE_ROWS - 1)
        wholes[part] = _counted(whole)
        noise[part] = _clipped_mean(within, whole)
        stripes[part] = _clipped_mean(np.square(mean), whole)
    if seen.sum() < _MIN_PIXELS:
        return None
    stripes = np.maximum(stripes - noise / _STRIPE_ROWS, 0.0)
    noise = _own_share(noise, first, second, weights) / _SECOND_DIFFERENCE_GAIN
    stripes = _own_share(stripes, first, second, weights) / _SECOND_DIFFERENCE_GAIN
    enough = wholes >= _MIN_PIXELS // _STRIPE_ROWS
    return np.where(enough, np.sqrt(noise), np.nan), np.where(enough, np.sqrt(stripes), np.nan)


def _detail(
    cube: NDArray[np.float32], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """Second difference along the rows, zero where it is not known, and where it is."""
    detail = cube[..., 1:-1] - np.float32(0.5) * (cube[..., :-2] + cube[..., 2:])
    known = present[..., 1:-1] & present[..., :-2]
    known &= present[..., 2:]
    known &= np.isfinite(detail)
    detail[~known] = 0.0
    return detail, known


def _neighbours(bands: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two bands beside each one."""
    index = np.arange(bands)
    first, second = index - 1, index + 1
    if bands < 3:
        return index, index
    first[0], second[0] = 1, 2
    first[-1], second[-1] = bands - 2, bands - 3
    return first, second


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


def _adjacent_fit(
    detail: NDArray[np.float32], index: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> FloatArray:
    """Least-squares weights of two neighbours for some bands of a detail, shape (2, band)."""
    bands = len(detail)
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
    return np.asarray(weights)


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
