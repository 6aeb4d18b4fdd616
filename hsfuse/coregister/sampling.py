"""Operations on whole images in torch: values between samples, and local means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hsfuse.native import match

_CONVOLVED_BELOW_PX = 3.0
_NOTHING = 1e-9
"""Of the largest weight: what is smaller is lost in sums of float32."""
_KNOTS_AT_ONCE, _PIXELS_AT_ONCE = 16, 64


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
        # Positions need double precision, their fractions do not.
        t = (position - whole).to(dtype)
        s = 1.0 - t
        w0, w1 = s**3 / 6.0, (3 * t**3 - 6 * t**2 + 4) / 6.0
        w2, w3 = (3 * s**3 - 6 * s**2 + 4) / 6.0, t**3 / 6.0
        low, high = w0 + w1, w2 + w3
        first, second = (whole - 1).add_(w1 / low), (whole + 1).add_(w3 / high)
        scale = 2.0 / (size - 1)
        return (first.mul_(scale).sub_(1.0).to(dtype), second.mul_(scale).sub_(1.0).to(dtype)), low

    (r0, r1), wr = pairs(rows.double(), height)
    (c0, c1), wc = pairs(cols.double(), width)
    total = torch.zeros((image.shape[0], *rows.shape), dtype=dtype, device=image.device)
    for row, weight_r in ((r0, wr), (r1, 1 - wr)):
        for col, weight_c in ((c0, wc), (c1, 1 - wc)):
            where = torch.stack([col, row], dim=-1)[None]
            fetched = torch.nn.functional.grid_sample(
                image[None], where, mode="bilinear", padding_mode="border", align_corners=True
            )[0]
            total.addcmul_(fetched, weight_r * weight_c)
    return total


@dataclass(frozen=True)
class _Banded:
    """A matrix whose rows hold something near the diagonal only, as blocks of rows: most of its products are zero.

    Attributes
    ----------
    shape
        Rows and columns.
    blocks
        First row, columns and values of each block.
    """

    shape: tuple[int, int]
    blocks: tuple[tuple[int, slice, Tensor], ...]

    @classmethod
    def of(cls, matrix: Tensor, most: int) -> _Banded:
        """Cut into blocks of at most so many rows (a GPU takes the matrix as a whole)."""
        step = most if matrix.device.type == "cpu" else matrix.shape[0]
        blocks = []
        for first in range(0, matrix.shape[0], step):
            rows = matrix[first : first + step]
            some = rows.any(dim=0).nonzero()
            cols = slice(int(some.min()), int(some.max()) + 1)
            blocks.append((first, cols, rows[:, cols].contiguous()))
        return cls((matrix.shape[0], matrix.shape[1]), tuple(blocks))

    def down(self, x: Tensor) -> Tensor:
        """Product with an image, shape (column of the matrix, col)."""
        out: Tensor = x.new_empty((self.shape[0], x.shape[1]))
        for first, cols, values in self.blocks:
            torch.matmul(values, x[cols], out=out[first : first + len(values)])
        return out

    def across(self, x: Tensor) -> Tensor:
        """Product of an image, shape (row, column of the matrix), with the transpose."""
        out: Tensor = x.new_empty((x.shape[0], self.shape[0]))
        for first, cols, values in self.blocks:
            out[:, first : first + len(values)] = x[:, cols] @ values.T
        return out


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
        self._weights = np.zeros(0, np.float32)
        self._device = device
        if scale_px < _CONVOLVED_BELOW_PX:
            taps = np.exp(-0.5 * (np.arange(int(np.ceil(3.0 * scale_px)) + 1) / scale_px) ** 2)
            self._taps = list(taps / (2 * taps.sum() - taps[0]))
            self._weights = np.array(self._taps, np.float32)
            return
        rows, cols = (_smoothing(size, scale_px, device) for size in (height, width))
        self._down, self._up = (rows[0], cols[0]), (rows[1], cols[1])

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted local mean of ``x`` (channel, row, col), smooth, defined everywhere."""
        total = self.total(weight)
        return torch.stack([self.mean(channel, weight, total) for channel in x])

    def subtract(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """``x`` without its local mean; ``out`` may be ``x`` itself. Channel by channel: memory holds one mean."""
        out = torch.empty_like(x) if out is None else out
        total = self.total(weight)
        for channel, rest in zip(x, out, strict=True):
            torch.sub(channel, self.mean(channel, weight, total), out=rest)
        return out

    def total(self, weight: Tensor) -> Tensor:
        """Local sums of the weights, which :meth:`mean` divides by."""
        if self._compiled:
            return torch.from_numpy(match.convolve(weight.contiguous().numpy(), self._weights)).add_(1e-6)
        if self._taps:
            return self._convolved(weight).add_(1e-6)
        down_r, down_c = self._down
        return down_c.across(down_r.down(weight))

    def mean(self, x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        """Weighted local mean of one channel, shape (row, col)."""
        if self._taps:
            return self._convolved(x * weight).div_(total)
        down_r, down_c = self._down
        up_r, up_c = self._up
        mean = (down_c.across(down_r.down(x * weight)) + 1e-6 * x.mean()) / (total + 1e-6)
        return up_c.across(up_r.down(mean))

    def flatten(self, x: Tensor, weight: Tensor, total: Tensor, count: Tensor, out: Tensor) -> None:
        """Write a channel without its local mean, of unit variance over the ``count`` pixels that the weights mark."""
        if self._compiled and out.is_contiguous():
            # The kernel still reads rows above and below one that it has written.
            x = x.clone() if x.data_ptr() == out.data_ptr() else x.contiguous()
            arrays = [part.contiguous().numpy() for part in (x, weight, total)]
            match.flatten(arrays[0], arrays[1], arrays[2], self._weights, float(count), out.numpy())
            return
        torch.sub(x, self.mean(x, weight, total), out=out)
        out.div_(((out * weight).mul_(out).sum() / count).sqrt().clamp(min=1e-9))

    @property
    def _compiled(self) -> bool:
        return bool(self._taps) and match.serves(self._device.type)

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


@lru_cache(maxsize=16)
def _smoothing(size: int, scale_px: float, device: torch.device) -> tuple[_Banded, _Banded]:
    """Matrices that average an axis of an image at knots, and bring values at the knots to its pixels."""
    down = _gaussian_rows(size, scale_px)
    up = _tent_columns(size, down.shape[0])
    return _Banded.of(down.to(device), _KNOTS_AT_ONCE), _Banded.of(up.to(device), _PIXELS_AT_ONCE)


def _knots(size: int, count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (size / count) - 0.5


def _gaussian_rows(size: int, scale_px: float) -> Tensor:
    count = max(2, int(np.ceil(size / max(scale_px, 1.0))))
    distance = _knots(size, count)[:, None] - torch.arange(size, dtype=torch.float64)[None, :]
    weights = torch.exp(-0.5 * (distance / scale_px) ** 2)
    # Numbers next to nothing add nothing, but a processor takes a hundred times as long for them.
    weights[weights < _NOTHING] = 0.0
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
