"""Which surroundings of the wanted pixels the parts of a network are given, in pixels of the HSI.

Every layer looks beyond the pixels that it makes: convolutions a little each, scans as far as their state lasts. What
is wanted in the end is known, so layers need not compute context that only those before them needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hsfuse.degrade import Window

if TYPE_CHECKING:
    from torch import Tensor


class Context(NamedTuple):
    """Margins around the wanted pixels, HSI pixels.

    Attributes
    ----------
    features
        Of shallow and deep features and their correction: most of a network's convolutions.
    refined
        Of refinement and fusion, where hardly anything but scans is left.
    """

    features: int
    refined: int


CORRECTION_CONTEXT = Context(features=2, refined=1)
"""Enough for networks that correct a base estimate.

With the shipped weights, blocks of 32 pixels with an overlap of 2 differ from the whole image by as much as blocks
with seven pixels of context everywhere and an overlap of 4 do: 2e-5 to 7e-5 root mean square, in PSNR by 0.001 dB.
Single pixels differ by up to 1e-3, in half precision to 5e-3, for scans carry what they saw over hundreds of pixels;
more context would hardly change that. That is why blocks lie where they lie in the scene, not where tiles happen to be
(:mod:`hsfuse.fusion.nets.fixed_blocks`). Differences between neighbouring pixels are no larger where blocks meet than
elsewhere.
"""


def grown(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    """Grow a window by a margin as far as an image of ``shape`` reaches."""
    rows, cols = (
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(window, shape, strict=True)
    )
    return rows, cols


def inside(window: Window, outer: Window) -> Window:
    """Return where a window lies within another one that holds it."""
    rows, cols = (
        slice(part.start - around.start, part.stop - around.start) for part, around in zip(window, outer, strict=True)
    )
    return rows, cols


def finer(window: Window, ratio: int) -> Window:
    """Return a window on a grid that is finer by a ratio."""
    rows, cols = (slice(part.start * ratio, part.stop * ratio) for part in window)
    return rows, cols


def whole(image: Tensor) -> Window:
    """Return the window that is all of (..., row, col)."""
    return slice(0, image.shape[-2]), slice(0, image.shape[-1])
