"""What a scene itself says about each of its bands, measured on a sample of rows in bounded memory.

Noise and stripes are separated from the ground in two steps. A second difference along the row removes what
varies slowly in space; a regression on the two spectrally adjacent bands removes what they share, which is the
ground's texture, because bands 10 nm apart see nearly the same ground but not the same noise (the idea of Roger
and Arnold, Int. J. Remote Sensing 17, 1996). What is left is noise, which changes from row to row, and column
stripes, which do not: an analysis of variance over four rows tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED, HyperspectralProduct

FloatArray = NDArray[np.float64]

BLOCK_ROWS = 16
MAX_BLOCKS = 30
_STRIPE_ROWS = 4
"""Few enough that stripes of a map-projected (rotated) scene stay in their column."""
_MAX_SAMPLES = 5_000_000
_SECOND_DIFFERENCE_GAIN = 1.5
"""Variance of x - (left + right) / 2 per variance of uncorrelated noise in x."""
_MIN_PIXELS = 256
_CLIP_SIGMA = 3.5
_CLIP_ROUNDS = 4
_LEAST_SIGNAL = 1e-4
_LEAST_NOISE = 1e-7


@dataclass(frozen=True)
class BandStatistics:
    """Figures of merit per band, arrays of shape (band,).

    Attributes
    ----------
    error_fraction
        Share of imaged samples that the producer flags as invalid or saturated.
    zero_fraction
        Share of imaged samples without data (fill value inside the footprint).
    negative_fraction
        Share of imaged samples below zero, or flagged so.
    mean
        Mean reflectance.
    snr
        Mean reflectance over the standard deviation of the noise; NaN where it could not be measured.
    stripe
        Standard deviation of column stripes over mean reflectance; NaN where it could not be measured.
    correlation
        Correlation with the more similar of both adjacent bands.
    pixels
        Imaged pixels that were looked at.
    """

    error_fraction: FloatArray
    zero_fraction: FloatArray
    negative_fraction: FloatArray
    mean: FloatArray
    snr: FloatArray
    stripe: FloatArray
    correlation: FloatArray
    pixels: int


def sample_blocks(grid: Grid, n_bands: int, *, max_blocks: int = MAX_BLOCKS) -> list[Slice2D]:
    """Return evenly spread blocks of 16 rows; columns are cut to bound memory on wide scenes."""
    rows = min(BLOCK_ROWS, grid.height)
    count = min(max_blocks, max(1, grid.height // rows))
    starts = np.linspace(0, grid.height - rows, count).round().astype(int)
    width = min(grid.width, max(64, _MAX_SAMPLES // (n_bands * rows)))
    blocks = []
    for number, row0 in enumerate(starts):
        # Successive blocks look at successive parts of a swath that is too wide for one block.
        col0 = 0 if width == grid.width else int((number * 0.618034 % 1.0) * (grid.width - width))
        blocks.append(Slice2D(int(row0), int(row0) + rows, col0, col0 + width))
    return blocks


def measure_bands(
    product: HyperspectralProduct, *, max_blocks: int = MAX_BLOCKS, progress: Progress | None = None
) -> BandStatistics:
    """Measure all bands of a product on a sample of its rows.

    Parameters
    ----------
    product
        Open hyperspectral product.
    max_blocks
        Most blocks of 16 rows that are read.
    progress
        Where to show progress.

    Raises
    ------
    OverlapError
        No sampled pixel lies inside the imaged footprint.
    """
    sums = _Sums(len(product.bands))
    blocks = sample_blocks(product.grid, len(product.bands), max_blocks=max_blocks)
    with (progress or SilentProgress()).stage("examine bands", len(blocks)) as stage:
        for block in blocks:
            valid = product.valid(block)
            if valid.any():
                cube = product.read(block)
                sums.add(cube, valid, product.error_codes(block))
            stage.advance()
    if sums.pixels == 0:
        raise OverlapError(
            f"The product {product.info.name} has no imaged pixel in {len(blocks)} sampled blocks.",
            hint="Check that the file is not empty and that the area of interest lies in its footprint.",
        )
    return sums.result()


@dataclass
class _Sums:
    """Running sums over blocks."""

    count: int
    pixels: int = 0
    error: FloatArray = field(init=False)
    missing: FloatArray = field(init=False)
    negative: FloatArray = field(init=False)
    pairs: FloatArray = field(init=False)
    total: FloatArray = field(init=False)
    present: FloatArray = field(init=False)
    offset: FloatArray | None = None
    spreads: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.error, self.missing, self.negative, self.total, self.present = np.zeros((5, self.count))
        self.pairs = np.zeros((6, self.count - 1))

    def add(self, cube: NDArray[np.float32], valid: NDArray[np.bool_], codes: NDArray[np.uint8] | None) -> None:
        """Take in one block, cube and codes (band, row, col), valid (row, col)."""
        pixels = int(valid.sum())
        self.pixels += pixels
        present = np.isfinite(cube) & valid
        counts = present.sum(axis=(1, 2), dtype=np.float64)
        self.missing += pixels - counts
        negative = present & (np.less(cube, 0.0, where=present, out=np.zeros_like(present)))
        if codes is not None:
            self.error += ((codes & (ERROR_INVALID_L1 | ERROR_SATURATED)).astype(bool) & valid).sum(axis=(1, 2))
            negative |= (codes & ERROR_NEGATIVE).astype(bool) & valid
        self.negative += negative.sum(axis=(1, 2))
        filled = np.where(present, cube, np.float32(0.0))
        block_total = filled.sum(axis=(1, 2), dtype=np.float64)
        self.total += block_total
        self.present += counts
        self._add_pairs(filled, present, block_total / np.maximum(counts, 1.0))
        spread = _noise_and_stripes(np.where(present, cube, np.float32("nan")))
        if spread is not None:
            self.spreads.append(spread)

    def _add_pairs(self, filled: NDArray[np.float32], present: NDArray[np.bool_], mean: FloatArray) -> None:
        if self.offset is None:
            self.offset = mean
        # Shifted by a typical value, so that single precision loses nothing in the squares.
        shifted = np.where(present, filled - self.offset[:, None, None].astype(np.float32), np.float32(0.0))
        for k in range(self.count - 1):
            both = present[k] & present[k + 1]
            a, b = shifted[k][both], shifted[k + 1][both]
            self.pairs[:, k] += (
                a.size, a.sum(dtype=np.float64), b.sum(dtype=np.float64),
                np.dot(a, a), np.dot(b, b), np.dot(a, b),
            )  # fmt: skip

    def result(self) -> BandStatistics:
        """Turn the sums into figures."""
        pixels = float(self.pixels)
        mean = np.where(self.present > 0, self.total / np.maximum(self.present, 1.0), np.nan)
        # Deviations are typical ones of a block, the signal is the scene's: a block of water has next to none.
        noise, stripe = np.full((2, self.count), np.nan)
        if self.spreads:
            noise, stripe = (_median(np.stack(values)) for values in zip(*self.spreads, strict=True))
        signal = np.maximum(mean, _LEAST_SIGNAL)
        return BandStatistics(
            error_fraction=self.error / pixels,
            zero_fraction=self.missing / pixels,
            negative_fraction=self.negative / pixels,
            mean=mean,
            snr=signal / np.maximum(noise, _LEAST_NOISE),
            stripe=stripe / signal,
            correlation=_neighbour_correlation(self.pairs),
            pixels=self.pixels,
        )


def _median(stack: FloatArray) -> FloatArray:
    """Median over blocks, NaN where no block has a value."""
    result = np.full(stack.shape[1], np.nan)
    some = np.isfinite(stack).any(axis=0)
    result[some] = np.nanmedian(np.where(np.isfinite(stack), stack, np.nan)[:, some], axis=0)
    return result


def _neighbour_correlation(pairs: FloatArray) -> FloatArray:
    count = np.maximum(pairs[0], 1.0)
    covariance = pairs[5] / count - pairs[1] * pairs[2] / count**2
    variance_a = pairs[3] / count - (pairs[1] / count) ** 2
    variance_b = pairs[4] / count - (pairs[2] / count) ** 2
    scale = np.sqrt(np.maximum(variance_a, 0.0) * np.maximum(variance_b, 0.0))
    usable = (pairs[0] >= 2) & (scale > 0)
    r = np.where(usable, covariance / np.where(usable, scale, 1.0), 0.0)
    padded = np.concatenate(([-1.0], r, [-1.0]))
    best: FloatArray = np.maximum(padded[:-1], padded[1:])
    return best if r.size else np.zeros(1)


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
    enough = whole.sum(axis=(1, 2)) >= _MIN_PIXELS // _STRIPE_ROWS
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
        number = np.maximum(kept.sum(axis=(1, 2)), 1)
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
