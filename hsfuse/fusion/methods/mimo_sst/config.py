"""Settings of MIMO-SST."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class MimoSstSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width
        Channels at the finest of three scales; twice and four times as many at the coarser ones.
    window_px
        Side of the windows in which attention among channels is computed, HSI pixels; a multiple of 4.
    base
        What the output is added to; the interpolated HSI as published.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int = 48
    window_px: int = 16
    base: Base = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_px % 4 or self.width % 2:
            raise UsageError("MIMO-SST needs an even width and windows whose side is a multiple of 4.")
