"""Settings of SSR-NET."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class SsrnetSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    skip
        Correct the interpolated HSI instead of making the cube anew (ours).
    """

    n_bands: int = 100
    n_msi: int = 4
    skip: bool = False
