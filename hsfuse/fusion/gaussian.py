"""Gaussian filters of images in single precision: compiled where that is possible."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.native import image

FloatArray = NDArray[np.float32]

_PAD: dict[str, Literal["symmetric", "constant"]] = {"reflect": "symmetric", "constant": "constant"}
_REACH = 4.0
"""Of the filter, in standard deviations: as :func:`scipy.ndimage.gaussian_filter` has it."""


def gaussian(x: NDArray[np.floating], sigma: float, mode: Literal["reflect", "constant"] = "reflect") -> FloatArray:
    """Filter the last two axes.

    Parameters
    ----------
    x
        Shape (..., row, col).
    sigma
        Standard deviation, pixels.
    mode
        What lies outside: the image mirrored at its edge, or zeros.

    Returns
    -------
    numpy.ndarray
        The same shape; within rounding what :func:`scipy.ndimage.gaussian_filter` gives.
    """
    rows, cols = x.shape[-2:]
    kernel = _kernel(sigma)
    side = kernel.size // 2
    if image.image_library() is None or min(rows, cols) <= side:
        axes = (0.0,) * (x.ndim - 2) + (sigma, sigma)
        return np.asarray(gaussian_filter(np.asarray(x, np.float32), axes, mode=mode), np.float32)
    out = np.empty(x.shape, np.float32)
    # Plane by plane: what is padded stays in the cache.
    for plane, target in zip(x.reshape(-1, rows, cols), out.reshape(-1, rows, cols), strict=True):
        padded = np.pad(np.asarray(plane, np.float32), side, mode=_PAD[mode])[None]
        found = image.decimate(np.ascontiguousarray(padded), 1, kernel, kernel)
        if found is not None:
            target[:] = found[0, side:-side, side:-side]
    return out


@cache
def _kernel(sigma: float) -> FloatArray:
    side = int(_REACH * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-side, side + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)
