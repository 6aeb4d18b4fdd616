"""How large the guide's denoiser is, and how much work adapting it to a scene is: what plans know without PyTorch."""

from __future__ import annotations

LAYERS = 6
"""Convolutions of the denoiser."""
STEPS, THOROUGH_STEPS = 100, 400
"""Of adapting it: as a matter of course, and where minutes are spent on adapting to the scene anyway."""
TURNS = 8
"""Versions of an image that are turned and mirrored."""
PATCH_PX, PATCHES = 64, 3
"""Side and number of the patches of a step."""


def learned_pixels(steps: int) -> float:
    """Pixels that so many steps amount to, in evaluations of the denoiser: a step backwards costs two."""
    return 3.0 * steps * PATCHES * PATCH_PX**2
