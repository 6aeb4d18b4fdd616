"""Which surroundings of the wanted pixels the parts of a network are given, in pixels of the HSI.

Every layer looks beyond the pixels that it makes: convolutions a little each, scans as far as their state lasts. What
is wanted in the end is known, so layers need not compute context that only those before them needed.
"""

from __future__ import annotations

from typing import NamedTuple


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
