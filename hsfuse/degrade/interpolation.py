"""Cubic interpolation to a finer grid, and the injection of detail into interpolated bands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade.arrays import split_nan
from hsfuse.degrade.banded import FloatArray, Unit, along_columns, along_rows, compiled_planes, from_planes
from hsfuse.degrade.psf import NO_OFFSET, Offset, check_ratio
from hsfuse.degrade.windows import Window
from hsfuse.errors import UsageError
from hsfuse.native import image

if TYPE_CHECKING:
    import torch

UPSAMPLE_HALO_PX = 2
"""Coarse pixels on each side that the cubic interpolation of one coarse pixel's area looks at."""
MAX_OFFSET_PX = 1.0
"""Largest displacement that an interpolation takes along, coarse pixels. Beyond half a pixel the cubic looks at a third
neighbour with a weight of 0.05 at most: what lies there is extrapolated from the two before it."""


def upsample(x: torch.Tensor, ratio: int, offset_px: Offset = NO_OFFSET) -> torch.Tensor:
    """Interpolate to a grid ``ratio`` times finer: centred cubic convolution (Keys, a = -0.5).

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN.
    ratio
        Fine pixels per coarse pixel.
    offset_px
        How far (row, col) the coarse pixels really lie towards larger index, coarse pixels; at most
        :data:`MAX_OFFSET_PX`. The fine grid stays where it is.

    Returns
    -------
    torch.Tensor
        Shape (n, band, row * ratio, col * ratio).

    References
    ----------
    R. Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 29, 1981.
    """
    down, across = (_cubic_matrix(ratio, float(offset)) for offset in offset_px)
    fast = compiled_planes(x)
    if fast is not None:
        fine = image.upsample(fast, ratio, np.asarray((down, across), dtype=np.float32))
        if fine is not None:
            return from_planes(fine, x)
    # Columns first: they run on the coarse rows only, a ratio-th of the work.
    wide = along_columns(x, across, 1, UPSAMPLE_HALO_PX, UPSAMPLE_HALO_PX)
    return along_rows(wide, down, 1, UPSAMPLE_HALO_PX, UPSAMPLE_HALO_PX)


def inject(
    base: torch.Tensor,
    coefficients: Sequence[torch.Tensor],
    detail: torch.Tensor | None,
    ratio: int,
    window: Window | None = None,
    out: torch.Tensor | None = None,
    offset_px: Offset = NO_OFFSET,
    add: bool = False,
) -> torch.Tensor:
    """Interpolate, and add the products of interpolated coefficients with fine images.

    ``upsample(base) + sum over m of upsample(coefficients[m]) * detail[:, m]``, as one pass over the fine pixels
    where the compiled kernels serve.

    Parameters
    ----------
    base
        Shape (n, band, row, col), free of NaN.
    coefficients
        Each of the shape of ``base``.
    detail
        Shape (n, coefficient, window row * ratio, window col * ratio); None without coefficients.
    ratio
        Fine pixels per coarse pixel.
    window
        Rows and columns of the coarse grid that are wanted; all when None.
    out
        Where to put the result: float32 on the CPU, rows of unit stride, of the result's shape.
    offset_px
        As for :func:`upsample`.
    add
        Add to what ``out`` holds.

    Returns
    -------
    torch.Tensor
        Shape (n, band, window row * ratio, window col * ratio).
    """
    import torch

    rows, cols = window or (slice(0, base.shape[2]), slice(0, base.shape[3]))
    shape = (*base.shape[:2], (rows.stop - rows.start) * ratio, (cols.stop - cols.start) * ratio)
    if compiled_planes(base) is not None and image.image_library() is not None:
        result = torch.empty(shape, dtype=base.dtype) if out is None else out
        weights = np.asarray([_cubic_matrix(ratio, float(offset)) for offset in offset_px], dtype=np.float32)
        for i in range(base.shape[0]):
            terms = torch.stack([c[i] for c in coefficients]).numpy() if coefficients else None
            image.inject(
                base[i].contiguous().numpy(), terms, None if detail is None else detail[i].contiguous().numpy(),
                (rows, cols), ratio, weights, result[i].numpy(), add=add and out is not None,
            )  # fmt: skip
        return result
    fine = (
        slice(None), slice(None), slice(rows.start * ratio, rows.stop * ratio),
        slice(cols.start * ratio, cols.stop * ratio),
    )  # fmt: skip
    result = upsample(base, ratio, offset_px)[fine]
    # Band by band: all coefficients at once on the fine grid would be the largest array of the fusion.
    for k, coarse in enumerate(coefficients):
        if detail is not None:
            result = result.addcmul_(upsample(coarse, ratio, offset_px)[fine], detail[:, k : k + 1])
    if out is None:
        return result
    return out.add_(result) if add else out.copy_(result)


def upsample_array(x: NDArray[np.floating], ratio: int) -> FloatArray:
    """:func:`upsample` for an array (band, row, col); a NaN spreads to every fine pixel that looks at it."""
    import torch

    data, missing = split_nan(x)
    fine = upsample(data, ratio)[0]
    if missing is not None:
        touch = tuple(tuple(float(weight != 0) for weight in row) for row in _cubic_matrix(ratio, 0.0))
        halo = UPSAMPLE_HALO_PX
        spread = along_rows(along_columns(missing, touch, 1, halo, halo), touch, 1, halo, halo)
        fine[spread[0] > 0.5] = torch.nan
    return fine.numpy()


@lru_cache(maxsize=64)
def _cubic_matrix(ratio: int, offset_px: float) -> Unit:
    """Weights of the 5 nearest coarse pixels (-2 .. 2) for each of the ``ratio`` phases."""
    check_ratio(ratio)
    if not abs(offset_px) <= MAX_OFFSET_PX:
        raise UsageError(f"An image cannot be interpolated {offset_px:g} pixels off its grid.")
    phase = (np.arange(ratio) - (ratio - 1) / 2.0) / ratio - offset_px
    reach = UPSAMPLE_HALO_PX + 1
    distance = np.abs(phase[:, None] - np.arange(-reach, reach + 1)[None, :])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    weights = np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
    for outer, middle, inner in ((0, 1, 2), (-1, -2, -3)):
        weights[:, middle] += 2.0 * weights[:, outer]
        weights[:, inner] -= weights[:, outer]
    weights = weights[:, 1:-1]
    return tuple(tuple(row) for row in weights / weights.sum(axis=1, keepdims=True))
