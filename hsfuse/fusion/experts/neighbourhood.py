"""Filters of the fine grid, and regressions in moving windows.

Widths are given for a ratio of 3 and grow with the ratio: the error of an estimate is as coarse as the HSI's pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsfuse.degrade import Psf, inject, lowpass_decimate, smooth
from hsfuse.fusion.classical.adaptive import cholesky_solve
from hsfuse.spectral import FWHM_TO_SIGMA

if TYPE_CHECKING:
    import torch

_WIDTHS_FOR = 3
LOCAL_SIGMA_PX = 2.0
_WIDER_TAPS = 11
"""On the coarse grid, behind the narrow window: 2.5 times as wide together."""
_LOCAL_RIDGE = 1.0


def taps(sigma_px: float, ratio: int) -> int:
    """Length of the binomial filter with a standard deviation of so many fine pixels (at a ratio of 3)."""
    variance = (sigma_px * ratio / _WIDTHS_FOR) ** 2
    return 1 + 2 * max(round(2.0 * variance), 1)


def high_pass(x: torch.Tensor, sigma_px: float, ratio: int) -> torch.Tensor:
    """Return what a smoother takes away from (n, band, row, col)."""
    return x - smooth(x, taps(sigma_px, ratio))


def local_regressions(x: torch.Tensor, leading: int, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict all components from the leading ones in narrow and in wide windows.

    The moments are those of the fine pixels, the coefficients live on the coarse grid and are interpolated.

    Parameters
    ----------
    x
        Components, shape (n, component, row, col).
    leading
        How many of them predict.
    ratio
        Fine pixels per coarse pixel.

    Returns
    -------
    narrow, wide : torch.Tensor
        The shape of ``x``.
    """
    import torch

    count = min(leading, x.shape[1])
    products = (x[:, :count, None] * x[:, None]).flatten(1, 2)
    window = Psf(LOCAL_SIGMA_PX / (_WIDTHS_FOR * FWHM_TO_SIGMA))
    moments = lowpass_decimate(torch.cat([x, products], dim=1), ratio, window)
    del products
    narrow, wide = (_predict(each, x, count, ratio) for each in (moments, smooth(moments, _WIDER_TAPS)))
    return narrow, wide


def _predict(moments: torch.Tensor, x: torch.Tensor, leading: int, ratio: int) -> torch.Tensor:
    size = x.shape[1]
    mean = moments[:, :size]
    product = moments[:, size:].reshape(len(x), leading, size, *moments.shape[2:])
    product = product - mean[:, :leading, None] * mean[:, None]
    coefficients = regress(product[:, :, :leading], product, _LOCAL_RIDGE)
    base = mean
    for n, coefficient in enumerate(coefficients):
        base = base - coefficient * mean[:, n : n + 1]
    return inject(base.contiguous(), coefficients, x[:, :leading].contiguous(), ratio)


def regress(square: torch.Tensor, cross: torch.Tensor, ridge: float) -> list[torch.Tensor]:
    """Solve ridge regressions at every pixel.

    Parameters
    ----------
    square
        Moments of the regressors, shape (n, regressor, regressor, row, col).
    cross
        Moments of regressors and targets, shape (n, regressor, target, row, col).
    ridge
        Added to the diagonal.

    Returns
    -------
    list of torch.Tensor
        One per regressor, shape (n, target, row, col).
    """
    count = square.shape[1]
    gram = {
        (i, j): square[:, i, j][:, None] + (ridge if i == j else 0.0) for i in range(count) for j in range(i + 1)
    }  # fmt: skip
    return cholesky_solve(gram, [cross[:, i] for i in range(count)])
