"""Regression of the details of components on those of the guide in moving windows, drawn towards a scene-wide fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import smooth
from hsfuse.degrade.banded import compiled_planes
from hsfuse.native import regression

if TYPE_CHECKING:
    import torch

WINDOW_TAPS = 5
"""Length of the binomial window, in HSI pixels."""
NOISE_LEFT_IN_DETAIL = 0.7
"""Variance of unit white noise after the high pass and the local fit."""


def regress(
    guide: torch.Tensor, detail: torch.Tensor, components: torch.Tensor, prior: torch.Tensor, gain: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Regress component details on whitened guide details.

    Parameters
    ----------
    guide, detail
        Details of the guide and of the components, shapes (n, msi band, row, col) and (n, component, row, col).
    components
        The components themselves.
    prior, gain
        Added to every window's matrix, shape (msi band, msi band), and to its right-hand sides, shape
        (component, msi band).

    Returns
    -------
    coefficients : list of torch.Tensor
        One per MSI band, shape (n, component, row, col).
    trusted : torch.Tensor
        Components whose detail beyond the regression is shrunk to what exceeds the noise; the same shape.
    """
    compiled = _compiled(guide, detail, components, prior, gain)
    return _plain(guide, detail, components, prior, gain) if compiled is None else compiled


def _compiled(
    guide: torch.Tensor, detail: torch.Tensor, components: torch.Tensor, prior: torch.Tensor, gain: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor] | None:
    """:func:`regress` by the compiled kernel; None where it does not serve."""
    import torch

    if any(compiled_planes(images) is None for images in (guide, detail, components)):
        return None
    loading, pull = prior.contiguous().numpy(), gain.T.contiguous().numpy()
    coefficients, trusted = [], []
    for tiles in zip(guide, detail, components, strict=True):
        own, details, whole = (tile.contiguous().numpy() for tile in tiles)
        found = regression.regress(own, details, whole, loading, pull, NOISE_LEFT_IN_DETAIL)
        if found is None:
            return None
        coefficients.append(found[0])
        trusted.append(found[1])
    stacked = [images[0][None] if len(images) == 1 else np.stack(images) for images in (coefficients, trusted)]
    return list(torch.from_numpy(stacked[0]).unbind(1)), torch.from_numpy(stacked[1])


def _plain(
    guide: torch.Tensor, detail: torch.Tensor, components: torch.Tensor, prior: torch.Tensor, gain: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """:func:`regress` on every device."""
    import torch

    count, rank = guide.shape[1], detail.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    squares = torch.stack([guide[:, i] * guide[:, j] for i, j in pairs], dim=1)
    products = (guide[:, :, None] * detail[:, None]).flatten(1, 2)
    moments = smooth(torch.cat([squares, products, detail.square()], dim=1), WINDOW_TAPS)
    square, product, energy = torch.split(moments, [len(pairs), count * rank, rank], dim=1)
    cross = [product[:, i * rank : (i + 1) * rank] for i in range(count)]

    gram = {(i, j): square[:, k : k + 1] + prior[i, j] for k, (i, j) in enumerate(pairs)}
    right = [cross[i] + gain[:, i, None, None] for i in range(count)]
    solution = cholesky_solve(gram, right)

    # Energy of the window that its coefficients leave, S - 2 A X + A G A: no second round of windows.
    left = energy.clone()
    beyond = detail.clone()
    for i in range(count):
        beyond.addcmul_(solution[i], guide[:, i : i + 1], value=-1.0)
        left.addcmul_(solution[i], cross[i], value=-2.0)
        for j in range(count):
            k = pairs.index((max(i, j), min(i, j)))
            left.addcmul_(solution[i] * solution[j], square[:, k : k + 1])
    shrink = (NOISE_LEFT_IN_DETAIL / left.clamp_min(1e-9)).clamp_(max=1.0)
    return solution, components - shrink * beyond


def cholesky_solve(gram: dict[tuple[int, int], torch.Tensor], right: list[torch.Tensor]) -> list[torch.Tensor]:
    """Solve a small symmetric positive system at every pixel at once.

    Written out over the few MSI bands, because a batched solver spends most of its time between the tiny matrices.

    Parameters
    ----------
    gram
        Lower triangle: (i, j) with j <= i -> shape (n, 1, row, col).
    right
        Right-hand sides, each of shape (n, component, row, col).
    """
    count = len(right)
    lower: dict[tuple[int, int], torch.Tensor] = {}
    for i in range(count):
        for j in range(i + 1):
            entry = gram[i, j]
            for k in range(j):
                entry = entry - lower[i, k] * lower[j, k]
            lower[i, j] = entry.clamp_min(1e-6).sqrt() if i == j else entry / lower[j, j]
    solution: list[torch.Tensor] = []
    for i in range(count):
        value = right[i]
        for k in range(i):
            value = value.addcmul(lower[i, k], solution[k], value=-1.0)
        solution.append(value / lower[i, i])
    for i in reversed(range(count)):
        value = solution[i]
        for k in range(i + 1, count):
            value = value.addcmul(lower[k, i], solution[k], value=-1.0)
        solution[i] = value / lower[i, i]
    return solution
