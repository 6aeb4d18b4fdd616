"""Settings of FusionMamba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class FusionMambaSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width
        Channels at the finest scale; they double with every scale.
    scales
        Scales of the U-shape; three as published make five stages.
    states
        States of each channel in a scan.
    streams
        Whether both streams pass the same weights (which gives the published size), or each its own.
    window_px
        Side of the windows that are scanned, HSI pixels.
    base
        What the output is added to; ``none``: a learned filter of the interpolated HSI, as published.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int = 32
    scales: int = 3
    states: int = 8
    streams: Literal["shared", "own"] = "shared"
    window_px: int = 16
    base: Base = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_px % self.cell:
            raise UsageError(f"FusionMamba at {self.scales} scales needs windows of a multiple of {self.cell} pixels.")

    @property
    def cell(self) -> int:
        """Fine pixels per pixel of the coarsest scale."""
        return 2 ** (self.scales - 1)
