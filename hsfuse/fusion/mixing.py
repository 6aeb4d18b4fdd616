"""Small matrices that are applied to the bands of images: components of bands, bands of components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsfuse.native import image

if TYPE_CHECKING:
    import torch

_LEAST_SAMPLES = 1024
"""Samples of a band from which the kernel is worth its call."""


def mix(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Apply a matrix to the bands of (n, band, row, col)."""
    import torch

    flat = x.flatten(2)
    made = _compiled(matrix, flat)
    if made is None:
        made = torch.matmul(matrix, flat)
    return made.reshape(x.shape[0], -1, *x.shape[2:])


def _compiled(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """Multiply (n, band, pixel) by the kernel, which uses a single thread; None where it does not serve."""
    import torch

    given = (matrix, x)
    if any(each.device.type != "cpu" or each.dtype != torch.float32 for each in given) or matrix.dim() != 2:
        return None
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        return None
    if x.shape[2] < _LEAST_SAMPLES or x.stride(2) != 1 or torch.get_num_threads() > 1 or image.image_library() is None:
        return None
    factor = matrix.detach().contiguous().numpy()
    made = torch.empty((len(x), len(matrix), x.shape[2]), dtype=torch.float32)
    for planes, out in zip(x.detach().numpy(), made.numpy(), strict=True):
        image.mix(factor, planes, out)
    return made
