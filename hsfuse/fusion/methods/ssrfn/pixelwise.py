"""What the gate sees of the experts at single pixels, and their weighed sum, for one image in plain PyTorch.

The plain twins of :mod:`hsfuse.fusion.methods.ssrfn.card`; for training, :class:`~hsfuse.fusion.methods.ssrfn.network.
Gate` has them for batches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compressed(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, to an absolute error of 1e-6: torch's own takes twice as long."""
    size = x.abs()
    return (x * x).add_(1.0).sqrt_().add_(size).log_().copysign_(x)


def features(
    state: Tensor, outputs: Tensor, present: Tensor, others: Tensor, asked: Tensor, constants: Tensor
) -> Tensor:
    """Norms, products and constants; see :func:`hsfuse.fusion.methods.ssrfn.card.features`."""
    number = present.sum().clamp(min=1.0)
    said = outputs * asked[:, None, None, None]
    images = compressed(torch.cat([state[None], said])) * present[:, None, None]
    parts = [torch.log1p(images.square().sum(dim=1) / number)]
    parts += [compressed((images * images[1:].index_select(0, other)).sum(dim=1) / number) for other in others[:, None]]
    parts.append(constants[:, None, None].expand(-1, *state.shape[1:]))
    return torch.cat(parts)


def weighed(found: Tensor, outputs: Tensor, slope: Tensor, asked: Tensor, most: float) -> Tensor:
    """Sum of what experts say; see :func:`hsfuse.fusion.methods.ssrfn.card.weighed`."""
    common, sloped = (0.5 * found[:, None]).chunk(2)
    weights = 2.0 * torch.tanh(torch.addcmul(common, sloped, slope[None, :, None, None]))
    return (weights * torch.tanh(outputs * (asked[:, None, None, None] / most))).sum(dim=0) * most
