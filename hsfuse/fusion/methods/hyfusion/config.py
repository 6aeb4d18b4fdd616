"""Settings of HyFusion."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class HyfusionSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width, growth
        Channels of the features, and that each block of a group adds.
    groups
        Residual dense groups of each branch.
    heads
        Attention heads; fewer where they do not divide a block's width.
    window_px
        Side of the attention windows, pixels of the branch's own grid.
    base
        What the output is added to; ours where it is not ``none``.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int = 96
    growth: int = 32
    groups: int = 6
    heads: int = 6
    window_px: int = 8
    base: Base = "none"
