"""Blur with a point spread function and keep one sample per coarse pixel; smoothing without decimation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade.arrays import split_nan
from hsfuse.degrade.banded import FloatArray, along_columns, along_rows, compiled_planes, from_planes
from hsfuse.degrade.psf import NO_OFFSET, Offset, Psf, displaced_kernels, psf_kernel
from hsfuse.errors import InputError, UsageError
from hsfuse.native import image

if TYPE_CHECKING:
    import torch


def lowpass_decimate(x: torch.Tensor, ratio: int, psf: Psf) -> torch.Tensor:
    """Blur with the PSF and keep one sample per coarse pixel, at its centre.

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN; rows and columns must be multiples of ``ratio``.
    ratio
        Fine pixels per coarse pixel.
    psf
        Blur, in coarse pixels.

    Returns
    -------
    torch.Tensor
        Shape (n, band, row / ratio, col / ratio).

    Raises
    ------
    InputError
        The size is not a multiple of ``ratio``.
    """
    kernel = tuple(psf_kernel(psf, ratio))
    return _decimate(x, ratio, kernel, kernel)


def decimate_separable(x: torch.Tensor, ratio: int, rows: Sequence[float], cols: Sequence[float]) -> torch.Tensor:
    """Filter with one kernel per axis and keep the samples at the coarse pixels' centres.

    What :func:`lowpass_decimate` does for one Gaussian; with :func:`psf_kernel` and an offset the HSI can be moved
    by fractions of a pixel too.

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN.
    ratio
        Fine pixels per coarse pixel.
    rows, cols
        Kernels whose number of taps has the ratio's parity.
    """
    return _decimate(x, ratio, tuple(rows), tuple(cols))


def smooth(x: torch.Tensor, taps: int) -> torch.Tensor:
    """Smooth (n, band, row, col) with a binomial kernel of ``taps`` (odd) taps along both axes.

    Its standard deviation is ``sqrt(taps - 1) / 2`` pixels.
    """
    kernel = _binomial(taps)
    return _decimate(x, 1, kernel, kernel)


def lowpass_decimate_array(x: NDArray[np.floating], ratio: int, psf: Psf) -> FloatArray:
    """:func:`lowpass_decimate` for an array (band, row, col); a NaN spreads to every coarse pixel that looks at it."""
    import torch

    kernel = psf_kernel(psf, ratio)
    data, missing = split_nan(x)
    coarse = lowpass_decimate(data, ratio, psf)[0]
    if missing is not None:
        ones = tuple((kernel > 0).astype(np.float64))
        coarse[_decimate(missing, ratio, ones, ones)[0] > 0.5] = torch.nan
    return coarse.numpy()


def smooth_array(x: NDArray[np.floating], taps: int) -> FloatArray:
    """:func:`smooth` for an array (band, row, col) free of NaN."""
    return smooth(split_nan(x)[0], taps)[0].numpy()


def masked_lowpass_decimate_array(
    x: NDArray[np.floating],
    valid: NDArray[np.bool_],
    ratio: int,
    psf: Psf,
    *,
    min_weight: float = 0.95,
    offset_px: Offset = NO_OFFSET,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Blur and decimate, using valid pixels only.

    Parameters
    ----------
    x
        Shape (band, row, col). Pixels with NaN in any band count as invalid.
    valid
        Usable pixels, shape (row, col).
    ratio, psf
        As for :func:`lowpass_decimate`.
    min_weight
        A coarse pixel is valid when valid pixels carry at least this share of its PSF's weight.
    offset_px
        How far (row, col) the coarse pixels really lie towards larger index, coarse pixels.

    Returns
    -------
    coarse : numpy.ndarray
        Shape (band, row / ratio, col / ratio): mean of the valid pixels under the PSF, NaN where not valid.
    valid_coarse : numpy.ndarray
        Shape (row / ratio, col / ratio).
    """
    import torch

    down, across = displaced_kernels(psf, ratio, offset_px)
    usable = np.asarray(valid, bool) & np.isfinite(x).all(axis=0)
    filled = torch.from_numpy(np.where(usable, x, 0.0).astype(np.float32))[None]
    low = decimate_separable(filled, ratio, down, across)[0]
    if usable.all():
        return low.numpy(), np.ones(tuple(low.shape[1:]), bool)
    weight = torch.from_numpy(usable.astype(np.float32))[None, None]
    share = decimate_separable(weight, ratio, down, across)[0, 0]
    mean = low / share.clamp_min(1e-6)
    enough = share >= min_weight
    mean[:, ~enough] = torch.nan
    return mean.numpy(), enough.numpy()


def _decimate(x: torch.Tensor, ratio: int, rows: tuple[float, ...], cols: tuple[float, ...]) -> torch.Tensor:
    """Filter with one kernel per axis (same length, the ratio's parity) at the coarse pixels' centres."""
    if x.shape[-2] % ratio or x.shape[-1] % ratio:
        raise InputError(
            f"An image of {x.shape[-2]} x {x.shape[-1]} pixels cannot be decimated by {ratio}.",
            hint="Crop it to a multiple of the ratio.",
        )
    fast = compiled_planes(x) if len(rows) == len(cols) else None
    if fast is not None:
        coarse = image.decimate(fast, ratio, np.asarray(rows, np.float32), np.asarray(cols, np.float32))
        if coarse is not None:
            return from_planes(coarse, x)
    side_rows, side_cols = (len(rows) - ratio) // 2, (len(cols) - ratio) // 2
    low = along_rows(x, (rows,), ratio, side_rows, side_rows)
    return along_columns(low, (cols,), ratio, side_cols, side_cols)


@lru_cache(maxsize=16)
def _binomial(taps: int) -> tuple[float, ...]:
    if taps < 1 or taps % 2 == 0:
        raise UsageError(f"A smoother needs an odd number of taps, not {taps}.")
    return tuple(math.comb(taps - 1, k) / 2.0 ** (taps - 1) for k in range(taps))
