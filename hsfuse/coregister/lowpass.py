"""The reference as the target would see it: low-passed with the target's blur, on a fine grid around the target.

The reference is read once, in strips of rows; what is kept is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.images import EVALUATION_VARIANCE_PX2, reference_grid
from hsfuse.coregister.threads import PARTS, parallel_map, prefetch
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError
from hsfuse.grid import Bounds, Grid, Slice2D
from hsfuse.native import image
from hsfuse.parallel import parts_of
from hsfuse.progress import Stage

FloatCube = NDArray[np.float32]
ReadBlock = Callable[[Slice2D], FloatCube]

_FWHM_TO_SIGMA = 1.0 / 2.3548200450309493
_REACH_SIGMAS = 3.0
_FEWEST_WEIGHT = 0.9
_STRIP_ROWS, _LEAST_ROWS, _READ_AHEAD = 192, 32, 4
_FINER = 0.75
"""A reference whose pixels are smaller than this share of the target's is low-passed; others are interpolated."""


def prepare_reference(
    read: ReadBlock, source: Grid, channels: int, target: Grid, margin_px: int, *, sigma_m: float, stage: Stage
) -> FloatCube:
    """Bring the reference to the grid on which it is compared with the target.

    Parameters
    ----------
    read
        Reads a block of the reference, float32 (channel, row, col), NaN where it must not be used.
    source
        Grid of the reference.
    channels
        Number of channels that ``read`` returns.
    target
        Claimed grid of the target.
    margin_px
        How far around the target to go, in target pixels.
    sigma_m
        Standard deviation of the blur that the result must have **after** its evaluation by a cubic B-spline.
    stage
        Advanced by 1 in total.

    Returns
    -------
    numpy.ndarray
        Shape (channel, row, col) on :func:`~hsfuse.coregister.images.reference_grid`; NaN outside the reference.

    Raises
    ------
    OverlapError
        The reference does not touch the target's surroundings.
    """
    wanted = reference_grid(target, margin_px)
    finest = wanted.pixel_m
    sigma = np.sqrt(max(sigma_m**2 - EVALUATION_VARIANCE_PX2 * target.pixel_m**2, (0.5 * finest) ** 2))
    if source.pixel_m > _FINER * target.pixel_m:
        return _interpolated(read, source, channels, wanted, stage)
    if source.crs == wanted.crs:
        return _lowpassed(read, source, channels, wanted, sigma, stage)
    # Across map zones: low-pass on the reference's own axes, then interpolate the smooth result.
    bounds = Bounds(*wanted.bounds_in(source.crs)).buffer(4 * finest)
    height = int(np.ceil((bounds.top - bounds.bottom) / finest))
    width = int(np.ceil((bounds.right - bounds.left) / finest))
    own = Grid.from_origin(source.crs, bounds.left, bounds.top, finest, height, width)
    smooth = _lowpassed(read, source, channels, own, sigma, stage)
    return _interpolated(lambda block: smooth[(slice(None), *block.slices)], own, channels, wanted, None)


def blur_sigma_m(psf: Psf, pixel_m: float, factor: int) -> float:
    """Standard deviation of a target's blur in metres, after averaging over ``factor`` x ``factor`` pixels."""
    return float(pixel_m * np.sqrt((psf.fwhm_px * _FWHM_TO_SIGMA) ** 2 + (factor**2 - 1) / 12.0))


def _interpolated(read: ReadBlock, source: Grid, channels: int, wanted: Grid, stage: Stage | None) -> FloatCube:
    out = np.full((channels, *wanted.shape), np.nan, dtype=np.float32)
    blocks = list(wanted.row_blocks(int(np.clip(-(-wanted.height // PARTS), _LEAST_ROWS, _STRIP_ROWS))))

    def fill(block: Slice2D) -> None:
        # Each has its own, which remembers where its block lies.
        resampler = Resampler(source, wanted, None)
        need = resampler.source_block(block)
        if min(need.shape) > 0:
            out[:, block.row0 : block.row1] = resampler.apply(read(need), need, block)

    for block, _ in zip(blocks, parallel_map(fill, blocks), strict=True):
        if stage is not None:
            stage.advance(block.shape[0] / wanted.height)
    return out


def _lowpassed(read: ReadBlock, source: Grid, channels: int, wanted: Grid, sigma_m: float, stage: Stage) -> FloatCube:
    try:
        window = source.block_of(wanted.bounds.buffer(_REACH_SIGMAS * sigma_m))
    except OverlapError as error:
        raise OverlapError("The two images do not overlap.", hint="Check the extents with `hsfuse info`.") from error
    at_row, _ = source.rowcol(0.0, wanted.xy(np.arange(wanted.height, dtype=np.float64), 0.0)[1])
    _, at_col = source.rowcol(wanted.xy(0.0, np.arange(wanted.width, dtype=np.float64))[0], 0.0)
    across = Kernel.gaussian(at_col - window.col0, sigma_m / source.transform.a)
    sigma_row = sigma_m / -source.transform.e
    reach = int(np.ceil(_REACH_SIGMAS * sigma_row)) + 1
    out = np.full((channels, *wanted.shape), np.nan, dtype=np.float32)

    def strip(top: int) -> tuple[int, FloatCube | None]:
        """First row of the reference that the strip needs, and its samples."""
        first = max(int(np.floor(at_row[top])) - reach, window.row0)
        last = min(int(np.ceil(at_row[min(top + _STRIP_ROWS, wanted.height) - 1])) + reach + 1, window.row1)
        return first, read(Slice2D(first, last, window.col0, window.col1)) if first < last else None

    for top, (first, values) in prefetch(strip, range(0, wanted.height, _STRIP_ROWS), _READ_AHEAD):
        bottom = min(top + _STRIP_ROWS, wanted.height)
        if values is not None:
            lowpass_strip(values, Kernel.gaussian(at_row[top:bottom] - first, sigma_row), across, out[:, top:bottom])
        stage.advance((bottom - top) / wanted.height)
    return out


def lowpass_strip(values: FloatCube, down: Kernel, across: Kernel, out: FloatCube) -> None:
    """Weighted means of a strip, written to ``out``; NaN where too little of the kernel has data.

    Parameters
    ----------
    values
        Shape (channel, row, col); a pixel counts where all channels are finite.
    down, across
        Kernels along rows and columns.
    out
        Shape (channel, output row, output col).
    """

    def part(rows: slice) -> bool:
        return image.lowpass(
            values, (down.first[rows], down.weight[rows]), (across.first, across.weight), _FEWEST_WEIGHT, out[:, rows]
        )

    if all(list(parallel_map(part, parts_of(down.first.size, PARTS)))):
        return
    tall, wide = down.matrix(values.shape[1]), across.matrix(values.shape[2])
    valid: NDArray[np.bool_] = np.all(np.isfinite(values), axis=0)

    def blurred(layer: FloatCube) -> FloatCube:
        return np.asarray((wide @ np.ascontiguousarray((tall @ layer).T)).T)

    weight = blurred(valid.astype(np.float32))
    enough = weight >= _FEWEST_WEIGHT
    for layer, to in zip(values, out, strict=True):
        np.divide(blurred(np.where(valid, layer, np.float32(0.0))), weight, out=to, where=enough)
        to[~enough] = np.nan


@dataclass(frozen=True)
class Kernel:
    """Weights of consecutive samples around positions along one axis.

    Attributes
    ----------
    first
        First sample of each position, shape (position,); may lie outside.
    weight
        Shape (position, tap), float32. The whole kernel weighs 1, also where part of it lies outside: sums are then
        too small there, which marks them.
    """

    first: NDArray[np.int64]
    weight: FloatCube

    @classmethod
    def gaussian(cls, position: NDArray[np.float64], sigma: float) -> Kernel:
        """Gaussian around positions, in samples."""
        half = max(1, int(np.ceil(_REACH_SIGMAS * sigma)))
        first = np.rint(position).astype(np.int64) - half
        away = first[:, None] + np.arange(2 * half + 1) - position[:, None]
        weight = np.exp(-0.5 * (away / sigma) ** 2)
        return cls(first, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))

    def matrix(self, size: int) -> scipy.sparse.csr_array:
        """The same as a matrix on ``size`` samples, shape (position, sample)."""
        index = self.first[:, None] + np.arange(self.weight.shape[1])
        inside = (index >= 0) & (index < size)
        pointer = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        shape = (len(index), size)
        return scipy.sparse.csr_array((self.weight[inside], index[inside].astype(np.int32), pointer), shape=shape)
