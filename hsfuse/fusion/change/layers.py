"""What the small networks share: in place where no gradient is asked for, since a block's images are large."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def activated(image: torch.Tensor) -> torch.Tensor:
    """Sigmoid linear unit (S. Elfwing et al., Neural Networks 107, 2018) of what a layer made, which nobody holds."""
    from torch.nn.functional import silu

    return silu(image, inplace=not image.requires_grad)


def added(image: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """Return the sum of two images, the first of which nobody else holds."""
    return image + more if image.requires_grad or more.requires_grad else image.add_(more)
