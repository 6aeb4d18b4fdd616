"""Repeated filters as products with small banded matrices, along one axis at a time.

A decimating filter never computes the fine samples that it would throw away; an interpolation writes each fine
sample once. Edges are replicated. This is the plain path, on every device and with gradients; on the CPU compiled
kernels do the same in one pass where they are available (:mod:`hsfuse.native.image`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.native import image

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
Unit = tuple[tuple[float, ...], ...]
"""Weights of one repetition of a filter: outputs x taps."""
_BLOCK = 16


def compiled_planes(x: torch.Tensor) -> FloatArray | None:
    """Return (n, band, row, col) as an array (plane, row, col) where the compiled kernels take it."""
    import torch

    if x.device.type != "cpu" or x.dtype != torch.float32 or (x.requires_grad and torch.is_grad_enabled()):
        return None
    if image.image_library() is None or x.numel() == 0:
        return None
    planes: FloatArray = x.detach().contiguous().flatten(0, 1).numpy()
    return planes


def from_planes(planes: FloatArray, like: torch.Tensor) -> torch.Tensor:
    """Return (plane, row, col) as a tensor with the leading axes of ``like``."""
    import torch

    return torch.from_numpy(planes).reshape(*like.shape[:2], *planes.shape[1:])


def _block_matrix(unit: Unit, step: int, count: int) -> NDArray[np.float64]:
    """Repeat a unit (outputs x taps) ``count`` times along the diagonal, ``step`` inputs apart."""
    weights = np.asarray(unit)
    outputs, taps = weights.shape
    block = np.zeros((outputs * count, step * (count - 1) + taps))
    for i in range(count):
        block[i * outputs : (i + 1) * outputs, i * step : i * step + taps] = weights
    return block


def _plan(length: int) -> tuple[int, int]:
    """Split ``length`` units into equal blocks of about :data:`_BLOCK`: (blocks, units per block)."""
    for size in range(_BLOCK + 4, _BLOCK // 2 - 1, -1):
        if length % size == 0:
            return length // size, size
    blocks = max(1, round(length / _BLOCK))
    return blocks, -(-length // blocks)


def along_rows(x: torch.Tensor, unit: Unit, step: int, before: int, after: int) -> torch.Tensor:
    """Apply a repeated unit down the rows of (n, band, row, col)."""
    import torch

    units = x.shape[-2] // step
    blocks, size = _plan(units)
    padded = _replicate(x, (0, 0, before, after + (blocks * size - units) * step))
    matrix = _on_device(unit, step, size, x.dtype, x.device)
    windows = padded.flatten(0, 1).unfold(1, matrix.shape[1], step * size).transpose(-1, -2)
    with torch.autocast(x.device.type, enabled=False):
        out = matrix @ windows
    rows = units * len(unit)
    return out.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :rows]


def along_columns(x: torch.Tensor, unit: Unit, step: int, before: int, after: int) -> torch.Tensor:
    """Apply a repeated unit along the columns of (n, band, row, col)."""
    import torch

    units = x.shape[-1] // step
    blocks, size = _plan(units)
    padded = _replicate(x, (before, after + (blocks * size - units) * step, 0, 0))
    matrix = _on_device(unit, step, size, x.dtype, x.device)
    # Copied: of overlapping windows PyTorch makes one product per row instead of a single one, up to ten times as slow.
    windows = padded.unfold(-1, matrix.shape[1], step * size).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        out = windows @ matrix.T.contiguous()
    cols = units * len(unit)
    return out.flatten(-2)[..., :cols]


@lru_cache(maxsize=256)
def _on_device(unit: Unit, step: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The block matrix where the image lies: copied there once, for a copy makes the host wait for a GPU."""
    import torch

    # Made outside of inference, for products with gradients too.
    with torch.inference_mode(False):
        return torch.as_tensor(_block_matrix(unit, step, count), dtype=dtype, device=device)


def _replicate(x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Pad (left, right, top, bottom) with the edge's values."""
    import torch

    return torch.nn.functional.pad(x, padding, mode="replicate") if any(padding) else x
