"""Settings of MPSRNet-Diff."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class MpsrnetSettings(NetworkSettings):
    """Shape of the super-resolution network, and how its prior is sampled.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and guide.
    width, blocks, state
        Channels of the features, mutual-guided blocks at every step, and state of their scans.
    fold
        Blocks of so many pixels along each axis are one token of a scan; divides the windows.
    window_px
        Side of the windows that are scanned, and in which the prior is sampled, HSI pixels.
    base
        What every step corrects: ``bicubic``, or the ``estimate`` of a classical method (ours).
    use_prior
        Sample a prior cube first (stage 1); without it the network sees HSI and guide alone.
    rank
        Bands of the prior.
    prior_steps, training_steps
        Steps in which it is sampled, and how many while the network is trained.
    """

    n_bands: int = 100
    n_msi: int = 1
    width: int = 64
    blocks: int = 4
    state: int = 16
    fold: int = 1
    window_px: int = 8
    base: Base = "bicubic"
    use_prior: bool = True
    rank: int = 3
    prior_steps: int = 50
    training_steps: int = 4
