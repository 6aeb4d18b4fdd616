"""Patches of an image that look alike: the search of :mod:`hsfuse.fusion.map.nonlocal_bayes` in plain PyTorch.

Reference patches lie on a grid, each in the middle of a window of places that it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PATCH_PX = 3
_SEARCH_BYTES, _CARD_SEARCH_BYTES = 48 << 20, 512 << 20
"""Distances that a processor and a card hold at a time: the search is hundreds of operations, whatever the rows it
looks at."""


def nearest_patches(image: torch.Tensor, similar: int, reach: int, step: int) -> torch.Tensor:
    """Find the patches of every window that are most like the one in its middle, some rows of windows at a time.

    As the operation of :mod:`hsfuse.fusion.gpu.patches`.
    """
    import torch

    rows, cols = (_grid(size - PATCH_PX + 1, step) for size in image.shape[1:])
    across, side = _grid_on(cols[-1] + 1, step, image.device), 2 * reach + 1
    most = _SEARCH_BYTES if image.device.type == "cpu" else _CARD_SEARCH_BYTES
    at_once = max(most // (4 * side**2 * len(cols)), 1)
    down = _grid_on(rows[-1] + 1, step, image.device)
    parts = [slice(start, start + at_once) for start in range(0, len(rows), at_once)]
    found = [_search(image, down[part], (rows[part][0], rows[part][-1]), across, similar, reach) for part in parts]
    return torch.cat(found)


def _search(
    image: torch.Tensor, ref_rows: torch.Tensor, span: tuple[int, int], ref_cols: torch.Tensor, similar: int, reach: int
) -> torch.Tensor:
    """Compare reference patches, from the first to the last row of ``span``, with everything in their window."""
    import torch

    high, wide = (size - PATCH_PX + 1 for size in image.shape[1:])
    side = 2 * reach + 1
    top = max(span[0] - reach, 0)
    bottom = min(span[1] + reach + PATCH_PX, image.shape[1])
    band = image[:, top:bottom]
    # Infinite outside the image: nothing there is ever similar.
    padded = torch.nn.functional.pad(band, (reach, reach, reach, reach), value=0.0)
    local = ref_rows - top
    distance = torch.empty((side * side, len(ref_rows), len(ref_cols)), dtype=image.dtype, device=image.device)
    rows, cols = band.shape[1:]
    for dy in range(side):
        target_rows = ref_rows + dy - reach
        row_ok = (target_rows >= 0) & (target_rows < high)
        for dx in range(side):
            other = padded[:, dy : dy + rows, dx : dx + cols]
            square = (band - other).square_().sum(dim=0)
            summed = _box(square)
            target_cols = ref_cols + dx - reach
            col_ok = (target_cols >= 0) & (target_cols < wide)
            found = summed[local][:, ref_cols]
            found = torch.where(row_ok[:, None] & col_ok[None], found, torch.inf)
            distance[dy * side + dx] = found
    return distance.flatten(1).topk(similar, dim=0, largest=False).indices.T.to(torch.int32)


def numbers_of(places: torch.Tensor, first: int, reach: int, step: int, shape: Sequence[int]) -> torch.Tensor:
    """Numbers of patches of the image from places of their windows, shape (reference, similar).

    ``first`` is the number of the first reference.
    """
    import torch

    high, wide = (size - PATCH_PX + 1 for size in shape[1:])
    side, cols = 2 * reach + 1, grid_size(wide, step)
    number = torch.arange(first, first + len(places), device=places.device)[:, None]
    down = (number // cols * step).clamp_(max=high - 1) + places // side - reach
    across = (number % cols * step).clamp_(max=wide - 1) + places % side - reach
    # A window at the image's edge may hold fewer patches than a group has.
    return down.clamp_(0, high - 1) * wide + across.clamp_(0, wide - 1)


def _box(x: torch.Tensor) -> torch.Tensor:
    """Sum over patches of (row, col), one value per top left corner."""
    wide = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return wide[:-2] + wide[1:-1] + wide[2:]


def _grid(size: int, step: int) -> list[int]:
    """Multiples of the step, and the last place."""
    return [min(place * step, size - 1) for place in range(grid_size(size, step))]


def grid_size(size: int, step: int) -> int:
    """Reference patches along an axis with so many places: one every ``step``, and one at the end."""
    return -(-(size - 1) // step) + 1


@lru_cache(maxsize=64)
def _grid_on(size: int, step: int, device: torch.device) -> torch.Tensor:
    """The grid where the image lies, copied there once."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(_grid(size, step), device=device)
