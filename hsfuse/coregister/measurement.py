"""What one pass over matching windows measures: the missing displacement of each, its variance, its resemblance.

See :mod:`hsfuse.coregister.refine`, which says what is modelled. Windows are solved a few rows of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.sums import WindowSums
from hsfuse.coregister.threads import PARTS, parallel_map
from hsfuse.coregister.windows import Windows, block_matrix
from hsfuse.parallel import parts_of

FloatArray = NDArray[np.float64]

_RIDGE = 1e-4
_LEAST_INFORMATION = 0.4


@dataclass(frozen=True)
class Measurement:
    """What one pass over the windows measured; all arrays have shape (n_r, n_c).

    Attributes
    ----------
    d_row, d_col
        Displacement that is still missing, in target pixels.
    variance
        Variance of one coordinate, from the scatter of the residuals between blocks of pixels: it assumes nothing
        about the noise but that blocks are independent.
    correlation
        Multiple correlation between target and modelled target.
    share
        Share of the window's weight on usable pixels.
    row, col
        Where the information of the window is centred.
    """

    d_row: FloatArray
    d_col: FloatArray
    variance: FloatArray
    correlation: FloatArray
    share: FloatArray
    row: FloatArray
    col: FloatArray


@dataclass(frozen=True)
class _Model:
    """Radiometric model of the windows: coefficients (channel, basis, n_r, n_c) and residual variance."""

    coefficients: Tensor
    variance: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.coefficients, self.variance


class WindowPass:
    """One measurement.

    Parameters
    ----------
    windows
        Where to measure.
    reference, target
        Shapes (plane, row, col) and (channel, row, col), without local means and of unit variance.
    mask
        Pixels that count, shape (row, col), float32.
    inner
        Pixels around which enough are known for their slopes, shape (row, col).
    """

    def __init__(self, windows: Windows, reference: Tensor, target: Tensor, mask: Tensor, inner: Tensor) -> None:
        self._windows, self._mask = windows, mask
        self._sums = WindowSums(windows, reference, target, mask, inner)
        self._channels, self._basis, self._pairs = self._sums.channels, self._sums.basis, self._sums.pairs

    def model(self, previous: _Model | None) -> _Model:
        """Fit the radiometric model with the weights that the previous one implies."""
        sums, _ = self._sums.of("fit", previous.parts if previous is not None else None)
        gram, rest = self._gram(sums[: len(self._pairs)]), sums[len(self._pairs) :]
        right = rest[: self._channels * self._basis].reshape(self._channels, self._basis, *self._windows.shape)
        square = rest[self._channels * self._basis :]
        solved = torch.linalg.solve(gram, right.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)
        total = sums[len(self._pairs) - 1].clamp(min=1e-3)
        variance = ((square - (solved * right).sum(dim=1)) / total).clamp(min=1e-4)
        return _Model(solved, variance)

    def resemblance(self) -> tuple[FloatArray, FloatArray]:
        """Multiple correlation and share of usable pixels of every window after one round."""
        sums, _ = self._sums.of("resemblance", self.model(None).parts)
        ee, tt = sums[: self._channels], sums[self._channels : -1]
        correlation = _correlation(ee.movedim(0, -1), tt.movedim(0, -1), sums[-1])
        return correlation.cpu().numpy(), self._share().double().cpu().numpy()

    def _gram(self, sums: Tensor) -> Tensor:
        """Symmetric matrices (n_r, n_c, basis, basis) with a small ridge, in double precision."""
        gram = torch.zeros((*sums.shape[1:], self._basis, self._basis), dtype=torch.float64, device=sums.device)
        for (i, j), value in zip(self._pairs, sums, strict=True):
            gram[..., i, j] = gram[..., j, i] = value.double()
        level = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
        eye = torch.eye(self._basis, dtype=torch.float64, device=sums.device)
        return gram + (_RIDGE * level + 1e-6) * eye

    def solve(self, model: _Model) -> Measurement:
        """Missing displacement of every window, its variance, and what else is known about the window."""
        sums, blocks = self._sums.of("shift", model.parts)
        scatter = _Scatter.of(self._windows, blocks)
        rows = parts_of(self._windows.shape[0], PARTS if sums.device.type == "cpu" else 1)
        parts = list(parallel_map(lambda part: self._solved(sums[:, part], partial(scatter.of_windows, part)), rows))
        d_row, d_col, variance, correlation, row, col = (
            torch.cat(parts_of_all).double().cpu().numpy() for parts_of_all in zip(*parts, strict=True)
        )
        return Measurement(d_row, d_col, variance, correlation, self._share().double().cpu().numpy(), row, col)

    def _solved(self, sums: Tensor, scatter: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        """Solve some rows of windows: displacement (row, col), variance, correlation, position (row, col)."""
        c, n = self._channels, self._basis
        per_channel = 3 * n + 7
        pairs = len(self._pairs)
        parts = sums[pairs : pairs + c * per_channel].reshape(c, per_channel, *sums.shape[1:]).permute(2, 3, 0, 1)
        extra = sums[pairs + c * per_channel :]
        # (n_r, n_c, channel, ...): gradients with basis, error with basis, gradients with themselves and the error
        gx = torch.stack([parts[..., :n], parts[..., n : 2 * n]], dim=-2)
        gg, ee, tt = parts[..., 2 * n : 2 * n + 3], parts[..., 2 * n + 3], parts[..., 2 * n + 4]
        ge, ex = parts[..., 2 * n + 5 : 2 * n + 7], parts[..., 2 * n + 7 :]
        gram = self._gram(sums[:pairs])[:, :, None]
        absorbed = torch.linalg.solve(gram, gx.transpose(-1, -2)).transpose(-1, -2)
        scale = _scale(ee, extra[0])
        own = torch.stack([torch.stack([gg[..., 0], gg[..., 1]], -1), torch.stack([gg[..., 1], gg[..., 2]], -1)], -2)
        hessian = ((own - absorbed @ gx.transpose(-1, -2)) / scale[..., None, None]).sum(dim=2)
        right = ((ge - (absorbed @ ex[..., None])[..., 0]) / scale[..., None]).sum(dim=2)
        level = 1e-3 * hessian.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] + 1e-9
        inverse = torch.linalg.inv(hessian + level * torch.eye(2, dtype=torch.float64, device=sums.device))
        info = extra[1].clamp(min=1e-9)
        step = (inverse @ right[..., None])[..., 0]
        # Reweighting makes the estimate noisier than its Hessian says.
        inverse = inverse / (1.0 - extra[4] / info).clamp(_LEAST_INFORMATION, 1.0)[..., None, None]
        variance = (inverse @ scatter(absorbed, scale) @ inverse).diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        return (
            step[..., 0], step[..., 1], variance, _correlation(ee, tt, extra[0]), extra[2] / info, extra[3] / info
        )  # fmt: skip

    def _share(self) -> Tensor:
        whole = self._windows.weight_r.sum(dim=1)[:, None] * self._windows.weight_c.sum(dim=1)[None, :]
        used = self._windows.weight_r @ self._mask @ self._windows.weight_c.T
        return used / whole.clamp(min=1e-6)


@dataclass(frozen=True)
class _Scatter:
    """Scores of blocks of pixels, from which the covariance of the windows' scores follows.

    Attributes
    ----------
    blocks
        Shape (score, block row, block col).
    down, across
        Squared mean weights of the windows in the blocks, shapes (n_r, block row) and (n_c, block col).
    factor
        For two parameters that were estimated from so many blocks, shape (n_r, n_c).
    """

    blocks: Tensor
    down: Tensor
    across: Tensor
    factor: Tensor

    @classmethod
    def of(cls, windows: Windows, blocks: Tensor) -> _Scatter:
        """From the scores of the blocks, shape (score, block row, block col)."""
        profiles, counts = [], []
        for profile in (windows.weight_r, windows.weight_c):
            matrix = block_matrix(profile.shape[1], profile.device)
            mean = (profile @ matrix.T) / matrix.sum(dim=1)
            profiles.append((mean**2).double())
            counts.append(mean.double().sum(dim=1) ** 2 / (mean.double() ** 2).sum(dim=1).clamp(min=1e-12))
        count = counts[0][:, None] * counts[1][None, :]
        return cls(blocks.double(), profiles[0], profiles[1], count / (count - 2.0).clamp(min=1.0))

    def of_windows(self, rows: slice, absorbed: Tensor, scale: Tensor) -> Tensor:
        """Covariance of the scores of some rows of windows, shape (n_r, n_c, 2, 2).

        ``absorbed`` and ``scale`` are what the model absorbs of the slopes, and the channels' residual variance.
        """
        down = self.down[rows]
        near = down.any(dim=0).nonzero()
        span = slice(int(near.min()), int(near.max()) + 1) if near.numel() else slice(0, 0)
        blocks, down = self.blocks[:, span], down[:, span]
        size = len(blocks)
        second = torch.empty((size, size, len(down), len(self.across)), dtype=torch.float64, device=blocks.device)
        for number, block in enumerate(blocks):
            second[number, number:] = down @ (block * blocks[number:]) @ self.across.T
            second[number + 1 :, number] = second[number, number + 1 :]
        second = second.permute(2, 3, 0, 1)
        identity = torch.eye(2, dtype=torch.float64, device=blocks.device).expand(*absorbed.shape[:3], 2, 2)
        lift = torch.cat([identity, -absorbed], dim=-1) / scale[..., None, None]
        lift = lift.permute(0, 1, 3, 2, 4).reshape(*absorbed.shape[:2], 2, size)
        return (lift @ second @ lift.transpose(-1, -2)) * self.factor[rows][..., None, None]


def _scale(unexplained: Tensor, weight: Tensor) -> Tensor:
    """Residual variance of each channel (last axis)."""
    return (unexplained / weight.clamp(min=1e-3)[..., None]).clamp(min=1e-4)


def _correlation(unexplained: Tensor, whole: Tensor, weight: Tensor) -> Tensor:
    """Multiple correlation over the channels (last axis), each relative to its residual variance."""
    scale = _scale(unexplained, weight)
    total = (whole / scale).sum(dim=-1).clamp(min=1e-9)
    return (1.0 - (unexplained / scale).sum(dim=-1) / total).clamp(0.0, 1.0).sqrt()
