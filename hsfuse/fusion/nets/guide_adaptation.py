"""The guide denoiser learns from the very image that it denoises, without knowing the clean one.

Of an image with Gaussian noise of known strength two are made by drawing further noise z: image + a z and
image - z / a. Their noise is independent, so a denoiser that is trained to turn the first into the second learns what
it would learn with the clean image as target (T. Pang, H. Zheng, Y. Quan, H. Ji, Recorrupted-to-Recorrupted, CVPR
2021). A hundred steps on a few blocks of the scene bring more than any pre-training on other scenes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.fusion.diagnostics import GuideDenoising
from hsfuse.fusion.nets.denoiser import REACH_PX, GuideDenoiser
from hsfuse.fusion.nets.denoising_effort import PATCH_PX, PATCHES, STEPS, TURNS

RATE = 2e-3
RECORRUPTION = 0.7
"""The a of the module's text: little noise is added to what the denoiser sees, more to what it shall return."""
LEAST_PX = 24
"""Blocks with a shorter side are not used."""
_TEST_EVERY, _TEST_BLOCKS = 4, 4
_FLOOR = 1e-5
"""Least noise that is reckoned with, reflectance: differences below drown in the rounding of single precision."""


@dataclass(frozen=True)
class AdaptedDenoiser:
    """A denoiser after its training on the scene.

    Attributes
    ----------
    denoiser
        The adapted copy, or the denoiser as it came where training on the scene did not help.
    record
        Noise of the image, and how much of it is left.
    """

    denoiser: GuideDenoiser
    record: GuideDenoising

    def clean(self, msi: Tensor, mean: Tensor, std: Tensor, noise: Tensor, *, thorough: bool = False) -> Tensor:
        """Denoise as :class:`GuideDenoiser` does; ``thorough``: mean over the image's 8 turned and mirrored versions.

        A network treats them a little differently, and the differences are errors: in the mean they shrink.
        """
        if not thorough:
            cleaned: Tensor = self.denoiser(msi, mean, std, noise)
            return cleaned
        total = torch.zeros_like(msi, dtype=torch.float32)
        for turn in range(TURNS):
            seen = torch.rot90(msi.flip(-1) if turn >= TURNS // 2 else msi, turn % 4, (-2, -1))
            back = torch.rot90(self.denoiser(seen, mean, std, noise), -(turn % 4), (-2, -1))
            total += back.flip(-1) if turn >= TURNS // 2 else back
        return total / TURNS


def adapt_denoiser(
    denoiser: GuideDenoiser,
    blocks: Sequence[NDArray[np.float32]],
    mean: Tensor,
    std: Tensor,
    noise: Tensor,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> AdaptedDenoiser:
    """Train a copy of a denoiser on blocks of one image.

    Parameters
    ----------
    denoiser
        Stays as it is.
    blocks
        Parts of the image, shape (msi band, row, col) each.
    mean, std, noise
        Of the whole image, as for :class:`GuideDenoiser`, shape (1, msi band).
    steps
        Training steps; 0 leaves the denoiser as it is.
    seed
        Of everything random.
    """
    device = mean.device
    usable = [torch.as_tensor(b, device=device) for b in blocks if min(b.shape[1:]) >= LEAST_PX]
    found = tuple(float(v) for v in noise.flatten())
    if steps < 1 or not usable or not max(found) > 0.0:
        return AdaptedDenoiser(denoiser, GuideDenoising(found))
    test = usable[:: _TEST_EVERY if len(usable) >= _TEST_EVERY else 1][:_TEST_BLOCKS]
    own = [b for i, b in enumerate(usable) if i % _TEST_EVERY] if len(usable) >= _TEST_EVERY else usable
    facts = (mean.float(), std.float(), noise.float().clamp(min=_FLOOR))
    adapted = copy.deepcopy(denoiser).float().requires_grad_(True)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=RATE)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    before = _left(adapted, test, facts, seed)
    side = min(PATCH_PX, *(size for b in own for size in b.shape[1:]))
    # A thread of its own: it takes over how many threads torch uses at present.
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-learn") as beside:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.02 + 0.5 * (1.0 + math.cos(math.pi * step / steps)))
            patches = torch.stack([_patch(own[int(rng.integers(len(own)))], side, rng) for _ in range(PATCHES)])
            pair = _recorrupted(patches, facts[2], generator)
            for parameter, gradient in zip(
                adapted.parameters(), loss_gradient(adapted, *pair, facts, beside), strict=True
            ):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
            optimizer.step()
    after = _left(adapted, test, facts, seed)
    if not after < before:
        return AdaptedDenoiser(denoiser, GuideDenoising(found, before, before))
    kind = next(denoiser.parameters()).dtype
    return AdaptedDenoiser(adapted.requires_grad_(False).to(kind), GuideDenoising(found, before, after))


def _recorrupted(patches: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the denoiser sees and what it shall return."""
    z = noise[:, :, None, None] * torch.randn(patches.shape, generator=generator).to(patches.device)
    return patches + RECORRUPTION * z, patches - z / RECORRUPTION


def _off(denoiser: GuideDenoiser, seen: Tensor, wanted: Tensor, facts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Squares of the differences to the second image in units of the noise's variance, shape of the images."""
    mean, std, noise = facts
    found = denoiser(seen, mean, std, noise * math.sqrt(1.0 + RECORRUPTION**2))
    return ((found - wanted) / noise[:, :, None, None]).square()


def loss_gradient(
    denoiser: GuideDenoiser,
    seen: Tensor,
    wanted: Tensor,
    facts: tuple[Tensor, Tensor, Tensor],
    beside: Executor | None = None,
) -> list[Tensor]:
    """Gradient of the mean square difference with respect to the denoiser's parameters.

    Parameters
    ----------
    denoiser
        Its parameters require gradients.
    seen, wanted
        Images, shape (n, msi band, row, col).
    facts
        Mean, standard deviation and noise of the whole scene.
    beside
        Another thread: on a CPU the images are shared out in two parts of equally many rows, each of which is
        computed with the few rows beyond its end that its result depends on. The parts and the order of their sum
        are always the same.
    """
    parameters = list(denoiser.parameters())

    def part(first: int, last: int) -> tuple[Tensor, ...]:
        """Gradient of the rows from ``first`` to ``last``, counted through all images."""
        height, total = seen.shape[2], torch.zeros((), device=seen.device)
        with torch.enable_grad():
            for images, rows, around in _pieces(first, last, height):
                off = _off(denoiser, seen[images, :, around], wanted[images, :, around], facts)
                total = total + off[:, :, rows.start - around.start : rows.stop - around.start].sum()
            return torch.autograd.grad(total / seen.numel(), parameters)

    count = seen.shape[0] * seen.shape[2]
    if beside is None or seen.is_cuda:
        return list(part(0, count))
    other = beside.submit(part, count // 2, count)
    try:
        mine = part(0, count // 2)
    finally:
        wait([other])
    return [a + b for a, b in zip(mine, other.result(), strict=True)]


def _pieces(first: int, last: int, height: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut a range of rows that is counted through images: (images, rows, these rows with what they depend on)."""
    while first < last:
        image, row = divmod(first, height)
        whole = (last - first) // height if row == 0 else 0
        end = height if whole else min(height, row + last - first)
        reach = slice(max(row - REACH_PX, 0), min(end + REACH_PX, height))
        yield slice(image, image + max(whole, 1)), slice(row, end), reach
        first += max(whole, 1) * (end - row)


@torch.no_grad()
def _left(denoiser: GuideDenoiser, blocks: Sequence[Tensor], facts: tuple[Tensor, Tensor, Tensor], seed: int) -> float:
    """Estimate the share of the variance of its input's noise that a denoiser leaves."""
    generator = torch.Generator().manual_seed(seed + 1)
    off = [float(_off(denoiser, *_recorrupted(block[None], facts[2], generator), facts).mean()) for block in blocks]
    own = 1.0 + RECORRUPTION**-2
    return (float(np.mean(off)) - own) / (1.0 + RECORRUPTION**2)


def _patch(block: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    row, col = (int(rng.integers(size - side + 1)) for size in block.shape[1:])
    part = torch.rot90(block[:, row : row + side, col : col + side], int(rng.integers(4)), (1, 2))
    return part.flip(2) if rng.random() < 0.5 else part
