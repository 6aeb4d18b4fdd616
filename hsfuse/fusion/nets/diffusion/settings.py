"""Settings of the prior. Read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class PriorSettings(NetworkSettings):
    """Shape of the prior's network.

    Attributes
    ----------
    n_bands
        Bands of the patches.
    fold
        Blocks of so many pixels along each axis are the pixels of the network's first level: it costs the less.
    width
        Channels of the first level; each further one has twice as many.
    levels
        Resolutions, each half of the one before.
    blocks
        Residual blocks at every level, on the way down and on the way up.
    steps
        Noise levels of the schedule.
    """

    n_bands: int = 3
    fold: int = 2
    width: int = 32
    levels: int = 3
    blocks: int = 1
    steps: int = 500

    @property
    def multiple(self) -> int:
        """Sides of patches are multiples of this."""
        return int(self.fold * 2 ** (self.levels - 1))
