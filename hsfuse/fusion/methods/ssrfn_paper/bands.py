"""Between the bands of a cube and the features of the network: what is as large as a cube is worked off in parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SAMPLES_AT_ONCE = 300_000


class EstimateFeatures(NamedTuple):
    """What the network takes from a base estimate: features, its mean at low resolution, what skips the network.

    Shapes (n, feature, row, col), (n, band, row / ratio, col / ratio), (n, band, row, col); the base estimate is in
    units of the bands' deviations, its detail in units of its expected error.
    """

    features: Tensor
    low: Tensor | None
    skip: Tensor | None


def bands_to(conv: nn.Conv2d | None, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to (n, band, row, col) that lies plane by plane: bands need not become the last axis."""
    if conv is None:
        raise RuntimeError("the network has no such layer")
    weight = conv.weight.flatten(1)
    out = torch.matmul(weight, x.flatten(2))
    if conv.bias is not None:
        out = out + conv.bias[:, None]
    return out.unflatten(2, x.shape[2:])


def rows_at_once(x: Tensor, bands: int, ratio: int = 1) -> int:
    """Rows of an image, multiples of ``ratio``, whose bands are worked off at a time.

    Without gradients on a CPU that is what fits the cache, else all.
    """
    count, _, rows, cols = x.shape
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return rows
    return max(SAMPLES_AT_ONCE // max(count * bands * cols * ratio, 1), 1) * ratio
