"""Filters of the fine grid, and regressions in moving windows.

Widths are given for a ratio of 3 and grow with the ratio: the error of an estimate is as coarse as the HSI's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hsfuse.degrade import NO_OFFSET, UPSAMPLE_HALO_PX, Offset, Psf, inject, lowpass_decimate, smooth
from hsfuse.degrade.windows import rows_around, rows_inside
from hsfuse.fusion.classical.window_regression import cholesky_solve
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


def high_pass(x: torch.Tensor, sigma_px: float, ratio: int, rows: slice | None = None) -> torch.Tensor:
    """Return what a smoother takes away from (n, band, row, col); only some rows of it where they are given."""
    count, rows = taps(sigma_px, ratio), rows or slice(0, x.shape[2])
    near = rows_around(rows, count // 2, x.shape[2])
    return x[:, :, rows] - smooth(x[:, :, near].contiguous(), count)[:, :, rows_inside(rows, near)]


class CoarseRegression(NamedTuple):
    """A regression on fine images whose coefficients live on the coarse grid and are interpolated.

    Attributes
    ----------
    base
        Shape (n, target, row, col).
    coefficients
        Of each regressor, of the same shape.
    """

    base: torch.Tensor
    coefficients: Sequence[torch.Tensor]

    def apply(
        self, regressors: torch.Tensor, rows: slice, ratio: int, offset_px: Offset = NO_OFFSET
    ) -> torch.Tensor:  # fmt: skip
        """Predict from the fine regressors (n, regressor, row, col) of some coarse rows."""
        near = rows_around(rows, UPSAMPLE_HALO_PX, self.base.shape[2])
        window = (slice(rows.start - near.start, rows.stop - near.start), slice(0, self.base.shape[3]))
        coefficients = [each[:, :, near] for each in self.coefficients]
        return inject(
            self.base[:, :, near].contiguous(), coefficients, regressors.contiguous(), ratio, window,
            offset_px=offset_px,
        )  # fmt: skip


def local_regressions(x: torch.Tensor, leading: int, ratio: int) -> tuple[CoarseRegression, CoarseRegression]:
    """Regress all components on the leading ones in narrow and in wide windows.

    The moments are those of the fine pixels.

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
    narrow, wide : CoarseRegression
        Of the components on ``x[:, :leading]``.
    """
    import torch

    count = min(leading, x.shape[1])
    window = Psf(LOCAL_SIGMA_PX / (_WIDTHS_FOR * FWHM_TO_SIGMA))
    # One regressor after the other: all products at once would be several times the components.
    moments = torch.cat(
        [lowpass_decimate(each, ratio, window) for each in (x, *(x[:, k : k + 1] * x for k in range(count)))], dim=1
    )
    narrow, wide = (_regression(each, x.shape[1], count) for each in (moments, smooth(moments, _WIDER_TAPS)))
    return narrow, wide


def _regression(moments: torch.Tensor, size: int, leading: int) -> CoarseRegression:
    mean = moments[:, :size]
    product = moments[:, size:].reshape(len(moments), leading, size, *moments.shape[2:])
    product = product - mean[:, :leading, None] * mean[:, None]
    coefficients = regress(product[:, :, :leading], product, _LOCAL_RIDGE)
    base = mean
    for n, coefficient in enumerate(coefficients):
        base = base - coefficient * mean[:, n : n + 1]
    return CoarseRegression(base, coefficients)


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
