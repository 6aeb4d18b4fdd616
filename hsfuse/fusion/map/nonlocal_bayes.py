"""Non-local Bayesian denoising of images with white noise of unit variance, vectorised.

Patches that look alike within a search window form a group; a group's covariance tells its structure from noise. Two
passes: the first estimates the covariance from the noisy patches and shrinks directions that noise could make, the
second uses the first pass's result for an empirical Wiener filter (M. Lebrun, A. Buades, J.-M. Morel, A nonlocal
Bayesian image denoising algorithm, SIAM J. Imaging Sci. 6, 2013). Groups are smaller than patches are long, so every
filter is worked out on the groups' Gram matrices. Reference patches lie on a grid that is anchored at multiples of the
step: images cut at such multiples give the same result away from the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from hsfuse.native.nonlocal_bayes import filter_pass

if TYPE_CHECKING:
    import torch

PATCH_PX, WINDOW_PX, SIMILAR = 3, 9, 48
COMPONENT_WINDOW_PX, COMPONENT_SIMILAR = 12, 96
"""The same for the components of a fused image, whose patches are longer: chosen on the validation sites."""
_SHRINK = 1.5
"""A direction of variance v, in units of the noise, counts (v / (v + this))^2 in the first pass: samples of pure noise
reach several times its variance where a group has fewer patches than a patch has values."""
_GROUP_BYTES = 48 << 20
_CARD_SEARCH_BYTES = 512 << 20
"""Distances that a card holds at a time: the search is hundreds of operations, whatever the rows it looks at."""


def denoise(
    x: torch.Tensor, *, similar: int = SIMILAR, window_px: int = WINDOW_PX, step: int = 3,
    wanted: NDArray[np.bool_] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Remove noise of unit variance.

    Parameters
    ----------
    x
        Shape (band, row, col).
    similar
        Patches in a group.
    window_px
        Reach of the search for similar patches, pixels.
    step
        Distance of reference patches, pixels.
    wanted
        Pixels whose result is used, shape (row, col): elsewhere it means nothing. None: all.

    Returns
    -------
    torch.Tensor
        The same shape.
    """
    if min(x.shape[1:]) < PATCH_PX:
        return x
    compiled = _compiled(x, similar, window_px, step, wanted)
    if compiled is not None:
        return compiled
    first = _kept_finite(_filter(x, None, similar, window_px, step), x)
    return _kept_finite(_filter(x, first, similar, window_px, step), x)


def _kept_finite(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Keep values whose group has too little noise for its structure: single precision cannot factor that."""
    import torch

    return torch.where(result.isfinite(), result, x)


def reach_px(window_px: int = WINDOW_PX) -> int:
    """Pixels around one that both passes look at."""
    return 4 * (window_px + PATCH_PX)


def _compiled(
    x: torch.Tensor, similar: int, window_px: int, step: int, wanted: NDArray[np.bool_] | None
) -> torch.Tensor | None:
    """Both passes by the compiled kernel; None where it does not serve."""
    import torch

    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    image = np.ascontiguousarray(x.permute(1, 2, 0).numpy())
    options: dict[str, int] = {"similar": similar, "reach": window_px, "step": step}
    # Groups that reach a wanted pixel, and all that reach a pixel which these look at.
    near = None if wanted is None else _grown(wanted, window_px + PATCH_PX)
    around = None if near is None else _grown(near, 2 * (window_px + PATCH_PX))
    first = filter_pass(image, None, shrink=_SHRINK, used=around, **options)
    if first is None:
        return None
    first = np.where(np.isfinite(first), first, image)
    second = filter_pass(image, first, shrink=_SHRINK, used=near, **options)
    if second is None:
        return None
    return _kept_finite(torch.from_numpy(second).permute(2, 0, 1), x).contiguous()


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Add all pixels in a square of so many pixels to each side."""
    return np.ascontiguousarray(maximum_filter(mask, 2 * reach + 1, mode="constant"), dtype=np.bool_)


def _filter(x: torch.Tensor, basic: torch.Tensor | None, similar: int, window_px: int, step: int) -> torch.Tensor:
    import torch

    bands, rows, cols = x.shape
    patches = _patches(x)
    looked = patches if basic is None else _patches(basic)
    image = x if basic is None else basic
    high, wide = rows - PATCH_PX + 1, cols - PATCH_PX + 1
    length = patches.shape[1]
    total = torch.zeros_like(patches)
    count = torch.zeros(patches.shape[0], dtype=x.dtype, device=x.device)
    for index in _groups(image, high, wide, similar, window_px, step):
        group = patches[index]
        guide = group if basic is None else looked[index]
        if basic is None:
            result = _shrunk(group)
        else:
            result = _wiener(group, guide)
        flat = index.flatten()
        total.index_add_(0, flat, result.reshape(-1, length))
        count.index_add_(0, flat, torch.ones_like(flat, dtype=x.dtype))
    return _fold(total, count, bands, rows, cols)


def _shrunk(group: torch.Tensor) -> torch.Tensor:
    """Keep the directions of a group (n, patch, value) that stand out of the noise."""
    import torch

    members = group.shape[1]
    mean = group.mean(dim=1, keepdim=True)
    centred = group - mean
    gram = torch.bmm(centred, centred.transpose(1, 2)) / (members - 1)
    loaded = gram.clone()
    loaded.diagonal(dim1=1, dim2=2).add_(_SHRINK)
    weights = _solved(loaded, gram)
    return torch.baddbmm(mean.expand_as(group), torch.bmm(weights, weights), centred)


def _wiener(group: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Filter a group by the covariance of its first estimate."""
    import torch

    members = group.shape[1]
    mean = guide.mean(dim=1, keepdim=True)
    structure = guide - mean
    gram = torch.bmm(structure, structure.transpose(1, 2))
    gram.diagonal(dim1=1, dim2=2).add_(float(members - 1))
    seen = torch.bmm(structure, (group - mean).transpose(1, 2))
    weights = _solved(gram, seen)
    return torch.baddbmm(mean.expand_as(group), weights.transpose(1, 2), structure)


def _solved(matrices: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve positive definite systems; NaN where single precision cannot factor one, as the compiled kernel gives.

    Nothing is asked of the device: an error would end the run for one group, and the host would wait for each batch.
    """
    import torch

    lower, failed = torch.linalg.cholesky_ex(matrices)
    return torch.cholesky_solve(right, lower.masked_fill(failed.ne(0)[:, None, None], torch.nan))


def _groups(
    image: torch.Tensor, high: int, wide: int, similar: int, window_px: int, step: int
) -> Iterator[torch.Tensor]:
    """Indices of the patches that look most like each reference patch, shape (reference, similar), some at a time."""
    ref_rows, ref_cols = _grid(high, step), _grid_on(wide, step, image.device)
    on_device = _grid_on(high, step, image.device)
    length = image.shape[0] * PATCH_PX**2
    side = 2 * window_px + 1
    if image.device.type == "cpu":
        at_once = max(_GROUP_BYTES // (4 * similar * length * max(len(ref_cols), 1)), 1)
    else:
        at_once = max(_CARD_SEARCH_BYTES // (4 * side**2 * max(len(ref_cols), 1)), 1)
    similar = min(similar, high * wide, side * side)
    for start in range(0, len(ref_rows), at_once):
        chosen = slice(start, start + at_once)
        span = ref_rows[chosen][0], ref_rows[chosen][-1]
        yield from _search(image, on_device[chosen], span, ref_cols, (high, wide), similar, window_px)


def _search(
    image: torch.Tensor, ref_rows: torch.Tensor, span: tuple[int, int], ref_cols: torch.Tensor, size: tuple[int, int],
    similar: int, reach: int,
) -> Iterator[torch.Tensor]:  # fmt: skip
    """Compare reference patches, from the first to the last row of ``span``, with everything in their window."""
    import torch

    high, wide = size
    side = 2 * reach + 1
    top = max(span[0] - reach, 0)
    bottom = min(span[1] + reach + PATCH_PX, image.shape[1])
    band = image[:, top:bottom]
    # Infinite outside the image: nothing there is ever similar.
    padded = torch.nn.functional.pad(band, (reach, reach, reach, reach), value=0.0)
    local = ref_rows - top
    count = len(ref_rows) * len(ref_cols)
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
    nearest = distance.flatten(1).topk(similar, dim=0, largest=False).indices.T
    del distance
    down, across = nearest // side - reach, nearest % side - reach
    base_rows = ref_rows[:, None].expand(len(ref_rows), len(ref_cols)).reshape(count, 1)
    base_cols = ref_cols[None].expand(len(ref_rows), len(ref_cols)).reshape(count, 1)
    found_rows = (base_rows + down).clamp_(0, high - 1)
    found_cols = (base_cols + across).clamp_(0, wide - 1)
    index = found_rows * wide + found_cols
    length = image.shape[0] * PATCH_PX**2
    batch = max(_GROUP_BYTES // (4 * similar * length), 1)
    for start in range(0, count, batch):
        yield index[start : start + batch]


def _box(x: torch.Tensor) -> torch.Tensor:
    """Sum over patches of (row, col), one value per top left corner."""
    wide = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return wide[:-2] + wide[1:-1] + wide[2:]


def _grid(size: int, step: int) -> list[int]:
    """Multiples of the step, and the last place."""
    return sorted({*range(0, size, step), size - 1})


@lru_cache(maxsize=64)
def _grid_on(size: int, step: int, device: torch.device) -> torch.Tensor:
    """The grid where the image lies, copied there once."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(_grid(size, step), device=device)


def _patches(x: torch.Tensor) -> torch.Tensor:
    """Patches of (band, row, col) as (place, value)."""
    cut = x.unfold(1, PATCH_PX, 1).unfold(2, PATCH_PX, 1)
    return cut.permute(1, 2, 0, 3, 4).reshape(cut.shape[1] * cut.shape[2], -1).contiguous()


def _fold(total: torch.Tensor, count: torch.Tensor, bands: int, rows: int, cols: int) -> torch.Tensor:
    """Average of all patches that cover a pixel."""
    import torch

    high, wide = rows - PATCH_PX + 1, cols - PATCH_PX + 1
    values = total.reshape(high, wide, bands, PATCH_PX, PATCH_PX)
    weights = count.reshape(high, wide)
    out = torch.zeros((bands, rows, cols), dtype=total.dtype, device=total.device)
    norm = torch.zeros((rows, cols), dtype=total.dtype, device=total.device)
    for dy in range(PATCH_PX):
        for dx in range(PATCH_PX):
            out[:, dy : dy + high, dx : dx + wide] += values[..., dy, dx].permute(2, 0, 1)
            norm[dy : dy + high, dx : dx + wide] += weights
    return out / norm.clamp(min=1e-6)
