"""Non-local Bayesian denoising of images with white noise of unit variance, vectorised.

Patches that look alike within a search window form a group; a group's covariance tells its structure from noise. Two
passes: the first estimates the covariance from the noisy patches and shrinks directions that noise could make, the
second uses the first pass's result for an empirical Wiener filter (M. Lebrun, A. Buades, J.-M. Morel, A nonlocal
Bayesian image denoising algorithm, SIAM J. Imaging Sci. 6, 2013). Groups are smaller than patches are long, so every
filter is worked out on the groups' Gram matrices. Reference patches lie on a grid that is anchored at multiples of the
step: images cut at such multiples give the same result away from the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from hsfuse.fusion.gpu.choice import kernels_on_card
from hsfuse.fusion.map.patch_search import PATCH_PX, nearest_patches, numbers_of
from hsfuse.native.nonlocal_bayes import filter_pass

if TYPE_CHECKING:
    import torch

WINDOW_PX, SIMILAR = 9, 48
COMPONENT_WINDOW_PX, COMPONENT_SIMILAR = 12, 96
"""The same for the components of a fused image, whose patches are longer: chosen on the validation sites."""
QUICK_WINDOW_PX, QUICK_SIMILAR, QUICK_SHRINK = 9, 64, 2.0
"""The same where the first pass alone has to do: three quarters of what both bring, for a fifth of the time (on the
validation sites)."""
RESULT_WINDOW_PX, RESULT_SIMILAR = 6, 48
"""The same for a result, which has little noise left: 96 patches in a reach of 12 gain no more on these sites."""
SHRINK = 1.5
"""A direction of variance v, in units of the noise, counts (v / (v + this))^2 in the first pass: samples of pure noise
reach several times its variance where a group has fewer patches than a patch has values."""
_GROUP_BYTES = 48 << 20
MOST_MEMBERS, MOST_VALUES = 64, 128
"""Patches of a group and values of a patch that the kernels of a card can hold."""


def denoise(
    x: torch.Tensor, *, similar: int = SIMILAR, window_px: int = WINDOW_PX, step: int = 3, passes: int = 2,
    shrink: float = SHRINK, wanted: NDArray[np.bool_] | None = None,
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
    passes
        2; 1 leaves out the second pass, and of ``wanted`` pixels what groups say that lie beside them.
    shrink
        Of the first pass, see :data:`SHRINK`.
    wanted
        Pixels whose result is used, shape (row, col): elsewhere it means nothing. None: all.

    Returns
    -------
    torch.Tensor
        The same shape.
    """
    if min(x.shape[1:]) < PATCH_PX:
        return x
    compiled = _compiled(x, similar, window_px, step, passes, shrink, wanted)
    if compiled is not None:
        return compiled
    first = _kept_finite(_filter(x, None, similar, window_px, step, shrink), x)
    return first if passes == 1 else _kept_finite(_filter(x, first, similar, window_px, step, shrink), x)


def _kept_finite(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Keep values whose group has too little noise for its structure: single precision cannot factor that."""
    import torch

    return torch.where(result.isfinite(), result, x)


def reach_px(window_px: int = WINDOW_PX) -> int:
    """Pixels around one that both passes look at."""
    return 4 * (window_px + PATCH_PX)


def _compiled(
    x: torch.Tensor, similar: int, window_px: int, step: int, passes: int, shrink: float,
    wanted: NDArray[np.bool_] | None,
) -> torch.Tensor | None:  # fmt: skip
    """All passes by the compiled kernel; None where it does not serve."""
    import torch

    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    image = np.ascontiguousarray(x.permute(1, 2, 0).numpy())
    options: dict[str, Any] = {"similar": similar, "reach": window_px, "step": step, "shrink": shrink}
    # Groups that reach a wanted pixel, and all that reach a pixel which these look at; of one pass those around one.
    near = None if wanted is None else _grown(wanted, PATCH_PX if passes == 1 else window_px + PATCH_PX)
    around = near if near is None or passes == 1 else _grown(near, 2 * (window_px + PATCH_PX))
    found = filter_pass(image, None, used=around, **options)
    if found is not None and passes == 2:
        found = filter_pass(image, np.where(np.isfinite(found), found, image), used=near, **options)
    if found is None:
        return None
    return _kept_finite(torch.from_numpy(found).permute(2, 0, 1), x).contiguous()


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Add all pixels in a square of so many pixels to each side."""
    return np.ascontiguousarray(maximum_filter(mask, 2 * reach + 1, mode="constant"), dtype=np.bool_)


def _filter(
    x: torch.Tensor, basic: torch.Tensor | None, similar: int, window_px: int, step: int, shrink: float
) -> torch.Tensor:  # fmt: skip
    """One pass: groups are found and filtered, and a pixel is the mean of all patches that cover it."""
    similar = min(similar, (x.shape[1] - PATCH_PX + 1) * (x.shape[2] - PATCH_PX + 1), (2 * window_px + 1) ** 2)
    image = x if basic is None else basic

    def by_kernels(kernels: Any) -> tuple[torch.Tensor, torch.Tensor]:
        places = kernels.nearest_operation(image, similar, window_px, step)
        total, weight = kernels.filter_operation(x, basic, places, window_px, step, shrink)
        return total, weight

    made = None
    if similar <= MOST_MEMBERS and len(x) * PATCH_PX**2 <= MOST_VALUES:
        made = kernels_on_card("hsfuse.fusion.gpu.patches", x, (len(x), window_px, basic is None), by_kernels)
    if made is None:
        places = nearest_patches(image, similar, window_px, step)
        made = filtered_groups(x, basic, places, window_px, step, shrink)
    total, weight = made
    return total / weight.clamp(min=1e-6)


def filtered_groups(
    x: torch.Tensor, basic: torch.Tensor | None, places: torch.Tensor, reach: int, step: int, shrink: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Filter every group and sum its patches where they lie; as the operation of :mod:`hsfuse.fusion.gpu.patches`."""
    import torch

    patches = _patches(x)
    looked = patches if basic is None else _patches(basic)
    total = torch.zeros_like(patches)
    count = torch.zeros(patches.shape[0], dtype=x.dtype, device=x.device)
    length = patches.shape[1]
    batch = max(_GROUP_BYTES // (4 * places.shape[1] * length), 1)
    for start in range(0, len(places), batch):
        index = numbers_of(places[start : start + batch].long(), start, reach, step, x.shape)
        group = patches[index]
        result = _shrunk(group, shrink) if basic is None else _wiener(group, looked[index])
        flat = index.flatten()
        total.index_add_(0, flat, result.reshape(-1, length))
        count.index_add_(0, flat, torch.ones_like(flat, dtype=x.dtype))
    return _folded(total, count, x.shape)


def _shrunk(group: torch.Tensor, shrink: float) -> torch.Tensor:
    """Keep the directions of a group (n, patch, value) that stand out of the noise."""
    import torch

    members = group.shape[1]
    mean = group.mean(dim=1, keepdim=True)
    centred = group - mean
    gram = torch.bmm(centred, centred.transpose(1, 2)) / (members - 1)
    loaded = gram.clone()
    loaded.diagonal(dim1=1, dim2=2).add_(shrink)
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


def _patches(x: torch.Tensor) -> torch.Tensor:
    """Patches of (band, row, col) as (place, value)."""
    cut = x.unfold(1, PATCH_PX, 1).unfold(2, PATCH_PX, 1)
    return cut.permute(1, 2, 0, 3, 4).reshape(cut.shape[1] * cut.shape[2], -1).contiguous()


def _folded(
    total: torch.Tensor, count: torch.Tensor, shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Sum of all patches that cover a pixel, shape (band, row, col), and their number, shape (row, col)."""
    import torch

    bands, rows, cols = shape
    high, wide = rows - PATCH_PX + 1, cols - PATCH_PX + 1
    values = total.reshape(high, wide, bands, PATCH_PX, PATCH_PX)
    weights = count.reshape(high, wide)
    out = torch.zeros((bands, rows, cols), dtype=total.dtype, device=total.device)
    norm = torch.zeros((rows, cols), dtype=total.dtype, device=total.device)
    for dy in range(PATCH_PX):
        for dx in range(PATCH_PX):
            out[:, dy : dy + high, dx : dx + wide] += values[..., dy, dx].permute(2, 0, 1)
            norm[dy : dy + high, dx : dx + wide] += weights
    return out, norm
