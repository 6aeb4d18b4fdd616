"""Images on which two products are compared: the target as it is, the reference as the target would see it.

The target is never interpolated. The reference is low-passed with the target's point spread function and sampled
twice as fine as the target, so that it can be evaluated at any displaced position without the position showing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.grid import Grid, Slice2D

FloatCube = NDArray[np.float32]

OVERSAMPLING = 2
"""Reference samples per target pixel along each axis."""
_CONVOLVED_BELOW_PX = 3.0
EVALUATION_VARIANCE_PX2 = 1.0 / 3.0 / OVERSAMPLING**2
"""Variance (in target pixels) of the cubic B-spline that evaluates the reference: part of the blur it needs."""


@dataclass(frozen=True)
class MatchImages:
    """What the matching works on.

    Attributes
    ----------
    target
        Shape (channel, row, col) on ``grid``, NaN where a pixel must not be used.
    reference
        Shape (channel, row, col), NaN likewise, on ``grid.pad(margin_px).nested(OVERSAMPLING)``. It holds the
        target's channels first, in the same order, and may hold further ones.
    grid
        The target's claimed grid.
    margin_px
        How many target pixels the reference reaches beyond the target.
    """

    target: FloatCube
    reference: FloatCube
    grid: Grid
    margin_px: int

    @property
    def reference_grid(self) -> Grid:
        """Grid of :attr:`reference`."""
        return reference_grid(self.grid, self.margin_px)


def reference_grid(grid: Grid, margin_px: int) -> Grid:
    """The finer grid around a target's grid on which the reference is prepared."""
    return grid.crop(Slice2D(-margin_px, grid.height + margin_px, -margin_px, grid.width + margin_px)).nested(
        OVERSAMPLING
    )


def bspline_sample(image: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Evaluate the cubic B-splines whose coefficients are an image.

    Without a prefilter this is a blur of constant, known width (variance 1/3 sample) that does not depend on the
    fraction of the position, which is what keeps sub-pixel matching from locking to the sample grid. Each value
    takes four bilinear fetches, and is NaN where one of the 16 samples around it is.

    Parameters
    ----------
    image
        Shape (channel, row, col).
    rows, cols
        Fractional sample positions, shape (h, w).

    Returns
    -------
    torch.Tensor
        Shape (channel, h, w); edge samples are repeated outside.
    """
    height, width = image.shape[-2:]
    dtype = image.dtype

    def pairs(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        whole = torch.floor(position)
        t = position - whole
        s = 1.0 - t
        w0, w1 = s**3 / 6.0, (3 * t**3 - 6 * t**2 + 4) / 6.0
        w2, w3 = (3 * s**3 - 6 * s**2 + 4) / 6.0, t**3 / 6.0
        low, high = w0 + w1, w2 + w3
        first, second = whole - 1 + w1 / low, whole + 1 + w3 / high
        return (first * (2.0 / (size - 1)) - 1.0, second * (2.0 / (size - 1)) - 1.0), low

    (r0, r1), wr = pairs(rows.double(), height)
    (c0, c1), wc = pairs(cols.double(), width)
    wr, wc = wr.to(dtype), wc.to(dtype)
    total = torch.zeros((image.shape[0], *rows.shape), dtype=dtype, device=image.device)
    for row, weight_r in ((r0, wr), (r1, 1 - wr)):
        for col, weight_c in ((c0, wc), (c1, 1 - wc)):
            where = torch.stack([col, row], dim=-1).to(dtype)[None]
            fetched = torch.nn.functional.grid_sample(
                image[None], where, mode="bilinear", padding_mode="border", align_corners=True
            )[0]
            total.addcmul_(fetched, weight_r * weight_c)
    return total


class Smoother:
    """Local weighted means: convolution on a small scale, products with small matrices on a large one.

    Parameters
    ----------
    height, width
        Image shape.
    scale_px
        Standard deviation of the Gaussian over which means are taken.
    """

    def __init__(self, height: int, width: int, scale_px: float, device: torch.device) -> None:
        self._taps: list[float] = []
        if scale_px < _CONVOLVED_BELOW_PX:
            taps = np.exp(-0.5 * (np.arange(int(np.ceil(3.0 * scale_px)) + 1) / scale_px) ** 2)
            self._taps = list(taps / (2 * taps.sum() - taps[0]))
            return
        self._down = tuple(_gaussian_rows(n, scale_px).to(device) for n in (height, width))
        self._up = tuple(
            _tent_columns(n, down.shape[0]).to(device) for n, down in zip((height, width), self._down, strict=True)
        )

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted local mean of ``x`` (channel, row, col), smooth, defined everywhere."""
        total = self._total(weight)
        return torch.stack([self._mean(channel, weight, total) for channel in x])

    def subtract(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """``x`` without its local mean; ``out`` may be ``x`` itself. Channel by channel: memory holds one mean."""
        out = torch.empty_like(x) if out is None else out
        total = self._total(weight)
        for channel, rest in zip(x, out, strict=True):
            torch.sub(channel, self._mean(channel, weight, total), out=rest)
        return out

    def _total(self, weight: Tensor) -> Tensor:
        if self._taps:
            return self._convolved(weight).add_(1e-6)
        return self._down[0] @ weight @ self._down[1].T

    def _mean(self, x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        if self._taps:
            return self._convolved(x * weight).div_(total)
        down_r, down_c = self._down
        up_r, up_c = self._up
        mean = (down_r @ (x * weight) @ down_c.T + 1e-6 * x.mean()) / (total + 1e-6)
        return torch.matmul(up_r @ mean, up_c.T)

    def _convolved(self, x: Tensor) -> Tensor:
        """Separable convolution of one channel, zeros outside (sums of shifted copies beat a general convolution)."""
        for dim in (0, 1):
            out = x * self._taps[0]
            size = x.shape[dim]
            for shift, tap in enumerate(self._taps[1:], start=1):
                if shift < size:
                    out.narrow(dim, shift, size - shift).add_(x.narrow(dim, 0, size - shift), alpha=tap)
                    out.narrow(dim, 0, size - shift).add_(x.narrow(dim, shift, size - shift), alpha=tap)
            x = out
        return x


def _knots(size: int, count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (size / count) - 0.5


def _gaussian_rows(size: int, scale_px: float) -> Tensor:
    count = max(2, int(np.ceil(size / max(scale_px, 1.0))))
    distance = _knots(size, count)[:, None] - torch.arange(size, dtype=torch.float64)[None, :]
    weights = torch.exp(-0.5 * (distance / scale_px) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _tent_columns(size: int, count: int) -> Tensor:
    """Linear interpolation from ``count`` knots to ``size`` pixels as a matrix (constant beyond the outer knots)."""
    return interpolation_matrix(torch.arange(size, dtype=torch.float64), _knots(size, count)).float()


def interpolation_matrix(at: Tensor, knots: Tensor) -> Tensor:
    """Matrix that interpolates linearly from ascending ``knots`` to positions ``at``, constant outside."""
    if knots.numel() == 1:
        return torch.ones((at.numel(), 1), dtype=torch.float64)
    step = (knots[-1] - knots[0]) / (knots.numel() - 1)
    u = ((at - knots[0]) / step).clamp(0.0, knots.numel() - 1.0)
    left = u.floor().clamp(max=knots.numel() - 2).long()
    t = u - left
    out = torch.zeros((at.numel(), knots.numel()), dtype=torch.float64)
    index = torch.arange(at.numel())
    out[index, left] = 1.0 - t
    out[index, left + 1] += t
    return out
