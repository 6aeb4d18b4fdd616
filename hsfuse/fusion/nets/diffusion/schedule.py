"""Noise levels of the diffusion, and which of them a strided sampling visits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError

_DECAY = 10.0
_LEAST, _MOST = 1e-3, 1.0 - 1e-4
"""Share of the signal's power at the noisiest and the cleanest level."""


def signal_power(steps: int) -> NDArray[np.float64]:
    """Share of the signal in the power of a noisy patch at every level, cleanest first, shape (step,).

    The exponential schedule of PLRDiff (Rui et al., Information Fusion 2024): levels crowd where the signal is weak.
    """
    position = np.arange(1, steps + 1) / steps
    falling = np.exp(-_DECAY * position)[::-1]
    scaled = (falling - falling.min()) / (falling.max() - falling.min())
    return np.asarray((_LEAST + (_MOST - _LEAST) * scaled)[::-1], dtype=np.float64)


def strided(steps: int, count: int) -> NDArray[np.int64]:
    """Levels that a sampling of ``count`` steps visits, noisiest first.

    Raises
    ------
    UsageError
        More steps are wanted than there are levels, or none.
    """
    if not 1 <= count <= steps:
        raise UsageError(f"The prior is sampled in 1 to {steps} steps, not {count}.")
    return np.unique(np.linspace(0, steps - 1, count).round().astype(np.int64))[::-1]
