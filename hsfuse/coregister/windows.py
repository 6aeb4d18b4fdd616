"""Weighted sums over windows on a lattice, taken strip by strip.

Windows are separable, so sums over all of them are products with two small matrices. They are accumulated over
strips of rows: the images that are multiplied exist for one strip at a time, and memory does not grow with the
number of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.sampling import interpolation_matrix
from hsfuse.native.match import Lattice

FloatArray = NDArray[np.float64]

BLOCK_PX = 12
"""Side of the blocks whose scores count as independent: residuals of parcels are correlated over less."""
_STRIP_PX = 2 * BLOCK_PX


@dataclass(frozen=True)
class Windows:
    """Separable windows on a regular lattice.

    Attributes
    ----------
    rows, cols
        Window centres in target pixels, shape (n_r,) and (n_c,).
    weight_r, weight_c
        Window profiles, shape (n_r, row) and (n_c, col).
    up_r, up_c
        Matrices that bring values at the windows to pixels, shape (row, n_r) and (col, n_c).
    """

    rows: FloatArray
    cols: FloatArray
    weight_r: Tensor
    weight_c: Tensor
    up_r: Tensor
    up_c: Tensor

    @classmethod
    def hann(cls, height: int, width: int, side_px: int, step_px: int, device: torch.device) -> Windows:
        """Hann windows of ``side_px`` about every ``step_px``, spread evenly; values between them are interpolated."""
        centres = [_centres(size, step_px) for size in (height, width)]
        profiles, ups = [], []
        for at, size in zip(centres, (height, width), strict=True):
            distance = np.abs(np.arange(size)[None, :] - at[:, None]) / side_px
            profile = np.where(distance < 0.5, np.cos(np.pi * distance) ** 2, 0.0)
            profiles.append(torch.from_numpy(profile).float().to(device))
            up = interpolation_matrix(torch.arange(size, dtype=torch.float64), torch.from_numpy(at))
            ups.append(up.float().to(device))
        return cls(centres[0], centres[1], profiles[0], profiles[1], ups[0], ups[1])

    @classmethod
    def boxes(cls, height: int, width: int, side_px: int, device: torch.device) -> Windows:
        """Boxes of about ``side_px`` that tile the image; every pixel takes the values of its own box."""
        centres, profiles = [], []
        for size in (height, width):
            edges = box_edges(size, side_px)
            profile = torch.zeros(len(edges) - 1, size)
            for i, (a, b) in enumerate(pairwise(edges)):
                profile[i, a:b] = 1.0
            centres.append((edges[:-1] + edges[1:] - 1) / 2.0)
            profiles.append(profile.to(device))
        return cls(centres[0], centres[1], profiles[0], profiles[1], profiles[0].T, profiles[1].T)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the lattice."""
        return len(self.rows), len(self.cols)

    @cached_property
    def lattice(self) -> Lattice:
        """The same for compiled kernels."""
        return Lattice.of(self.weight_r.numpy(), self.weight_c.numpy(), self.up_r.numpy())

    @property
    def sharing(self) -> float:
        """How many windows share a pixel's information: the variance of a mean of windows relative to independence."""
        product = 1.0
        for profile in (self.weight_r, self.weight_c):
            overlap = profile.double() @ profile.double().T
            norm = overlap.diagonal().sqrt()
            middle = overlap.shape[0] // 2
            product *= float((overlap[middle] / (norm[middle] * norm)).sum())
        return product

    def strips(self) -> Iterator[Strip]:
        """Strips of rows, whole blocks each (one strip on a GPU, where memory is ample and launches cost)."""
        height = self.weight_r.shape[1]
        rows = _STRIP_PX if self.weight_r.device.type == "cpu" else -(-height // BLOCK_PX) * BLOCK_PX
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            touched = self.weight_r[:, top:bottom].any(dim=1).nonzero()
            near = self.up_r[top:bottom].any(dim=0).nonzero()
            first, last = (int(touched.min()), int(touched.max()) + 1) if touched.numel() else (0, 0)
            yield Strip(self, top, bottom, first, last, int(near.min()), int(near.max()) + 1)

    def along_columns(self, values: Tensor) -> Tensor:
        """First half of the interpolation to pixels: (..., n_r, n_c) to (..., n_r, col)."""
        return torch.matmul(values.to(self.up_c.dtype), self.up_c.T)


@dataclass(frozen=True)
class Strip:
    """Rows ``[top, bottom)`` and the windows that they touch."""

    windows: Windows
    top: int
    bottom: int
    first: int
    last: int
    near_first: int
    near_last: int

    def sums(self, images: Tensor) -> Tensor:
        """The strip's share of the window sums of images (n, row, col), shape (n, touched windows, n_c)."""
        # Rows first: a strip touches few windows along its rows, so little is left to be summed along the columns.
        half = torch.matmul(self.windows.weight_r[self.first : self.last, self.top : self.bottom], images)
        return torch.matmul(half, self.windows.weight_c.T)

    def spread(self, along_columns: Tensor) -> Tensor:
        """Second half of the interpolation to pixels: (..., n_r, col) to (..., strip row, col)."""
        near = slice(self.near_first, self.near_last)
        return torch.matmul(self.windows.up_r[self.top : self.bottom, near], along_columns[..., near, :])


def _centres(size: int, step: int) -> FloatArray:
    count = max(1, round(size / step))
    return (np.arange(count) + 0.5) * size / count - 0.5


def box_edges(size: int, side: int) -> NDArray[np.int64]:
    """Edges of the boxes of about ``side`` pixels that tile ``size`` pixels."""
    return np.linspace(0, size, max(1, round(size / side)) + 1).round().astype(np.int64)


def block_sums(images: Tensor, block_c: Tensor) -> Tensor:
    """Sums over blocks of a strip: (n, row, col) to (n, block row, block col)."""
    number, height, width = images.shape
    whole = height // BLOCK_PX * BLOCK_PX
    sums = images[:, :whole].reshape(number, -1, BLOCK_PX, width).sum(dim=2)
    if whole < height:
        sums = torch.cat([sums, images[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    return torch.matmul(sums, block_c.T)


def block_matrix(size: int, device: torch.device) -> Tensor:
    """Matrix that sums blocks of pixels, shape (block, pixel)."""
    out = torch.zeros(-(-size // BLOCK_PX), size, device=device)
    index = torch.arange(size, device=device)
    out[index // BLOCK_PX, index] = 1.0
    return out
