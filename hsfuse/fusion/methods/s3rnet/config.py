"""Settings of S3RNet."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class S3rnetSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width, growth
        Channels of features and dense blocks; None: half and a quarter of the bands.
    depth_high, depth_low, depth_hsi, depth_msi
        Residual aggregations of the four branches.
    window_px
        Side of the windows over which channel weights are taken, HSI pixels.
    base
        What the output is added to; ours where it is not ``none``.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int | None = None
    growth: int | None = None
    depth_high: int = 6
    depth_low: int = 6
    depth_hsi: int = 4
    depth_msi: int = 4
    window_px: int = 16
    base: Base = "none"

    @property
    def channels(self) -> int:
        """Channels of the features, an even number."""
        return self.width or max(self.n_bands // 4, 4) * 2
