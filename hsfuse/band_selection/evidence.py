"""What a scene itself says about each of its bands, measured on a sample of rows in bounded memory.

Blocks of rows are read in turn and looked at side by side (:mod:`hsfuse.band_selection.block_evidence`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.block_evidence import Block, typical_values
from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.parallel import side_by_side, threads_for
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import HyperspectralProduct

FloatArray = NDArray[np.float64]

BLOCK_ROWS = 16
MAX_BLOCKS = 30
_MAX_SAMPLES = 5_000_000
_LEAST_SIGNAL = 1e-4
_LEAST_NOISE = 1e-7
_MOST_THREADS = 8
"""Each block takes 50 MB while it is looked at."""


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
        for found in _found_in(product, blocks):
            if found is not None:
                sums.add(found)
            stage.advance()
    if sums.pixels == 0:
        raise OverlapError(
            f"The product {product.info.name} has no imaged pixel in {len(blocks)} sampled blocks.",
            hint="Check that the file is not empty and that the area of interest lies in its footprint.",
        )
    return sums.result()


def _found_in(product: HyperspectralProduct, blocks: list[Slice2D]) -> Iterator[Block | None]:
    """Read blocks in turn and look at several at a time; in order, None for one outside the footprint."""
    offset: FloatArray | None = None

    def read() -> Iterator[tuple[Any, ...] | None]:
        nonlocal offset
        for block in blocks:
            valid = product.valid(block)
            if not valid.any():
                yield None
                continue
            cube = product.read(block)
            if offset is None:
                offset = typical_values(cube, valid)
            yield cube, valid, product.error_codes(block), offset
            del cube

    return side_by_side(lambda given: None if given is None else Block.of(*given), read(), threads_for(_MOST_THREADS))


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
    spreads: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.error, self.missing, self.negative, self.total, self.present = np.zeros((5, self.count))
        self.pairs = np.zeros((6, self.count - 1))

    def add(self, block: Block) -> None:
        """Take in one block."""
        self.pixels += block.pixels
        self.error += block.error
        self.missing += block.missing
        self.negative += block.negative
        self.pairs += block.pairs
        self.total += block.total
        self.present += block.present
        if block.spread is not None:
            self.spreads.append(block.spread)

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
