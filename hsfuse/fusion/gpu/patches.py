"""A pass of non-local Bayes on a card, as two operations of PyTorch that Triton kernels do.

Each has a plain twin in :mod:`hsfuse.fusion.map`.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from hsfuse.fusion.gpu import patch_kernels
from hsfuse.fusion.gpu.operation import card_operation
from hsfuse.fusion.map import nonlocal_bayes, patch_search
from hsfuse.fusion.map.nonlocal_bayes import MOST_MEMBERS
from hsfuse.fusion.map.patch_search import PATCH_PX, grid_size

_REFERENCES = 4
"""Reference patches whose distances one program holds."""


def nearest_patches(image: Tensor, similar: int, reach: int, step: int) -> Tensor:
    """Find the patches of a window that are most like the one in its middle.

    Parameters
    ----------
    image
        Shape (band, row, col), float32.
    similar
        Patches of a group; no more than there are places in a window.
    reach
        Of the window, pixels.
    step
        Distance of reference patches, pixels.

    Returns
    -------
    torch.Tensor
        Numbers of places of the window, row by row, shape (reference, similar), int32. Where a window at the image's
        edge holds fewer patches, places outside stand in.
    """
    bands, height, width = image.shape
    rows, cols = (grid_size(size - PATCH_PX + 1, step) for size in (height, width))
    found = torch.empty((rows * cols, similar), dtype=torch.int32, device=image.device)
    patch_kernels.nearest_kernel[(-(-rows * cols // _REFERENCES),)](
        image.contiguous(), found, rows * cols, cols, step, bands, height, width, similar,
        reach=reach, places=triton.next_power_of_2((2 * reach + 1) ** 2), block=_REFERENCES,
    )  # fmt: skip
    return found


def filtered_groups(
    image: Tensor, basic: Tensor | None, places: Tensor, reach: int, step: int, shrink: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Filter every group, and sum its patches where they lie.

    Parameters
    ----------
    image
        Shape (band, row, col), float32, noise of unit variance.
    basic
        What the first pass made of it; None in the first pass.
    places, reach, step
        What :func:`nearest_patches` found, and as it was asked.
    shrink
        Of the first pass: what directions are measured by.

    Returns
    -------
    total, weight : torch.Tensor
        Sums of all patches that cover a pixel, shape (band, row, col), and their number, shape (row, col).
    """
    image = image.contiguous()
    guide = image if basic is None else basic.contiguous()
    total, weight = torch.zeros_like(image), torch.zeros_like(image[0])
    bands, height, width = image.shape
    patch_kernels.group_kernel[(len(places),)](
        image, guide, places, total, weight, grid_size(width - PATCH_PX + 1, step), step, bands, height, width,
        places.shape[1], shrink, reach=reach, members=MOST_MEMBERS,
        block=max(16, triton.next_power_of_2(bands * PATCH_PX**2)), second=basic is not None,
    )  # fmt: skip
    return total, weight


nearest_operation = card_operation(
    "nearest_patches", "(Tensor image, int similar, int reach, int step) -> Tensor",
    nearest_patches, patch_search.nearest_patches,
)  # fmt: skip
filter_operation = card_operation(
    "filtered_groups",
    "(Tensor image, Tensor? basic, Tensor places, int reach, int step, float shrink) -> (Tensor, Tensor)",
    filtered_groups, nonlocal_bayes.filtered_groups,
)  # fmt: skip
