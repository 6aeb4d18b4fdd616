"""Settings of SSR-NET."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class SsrnetSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    base
        What the output is added to; ours where it is not ``none``.
    """

    n_bands: int = 100
    n_msi: int = 4
    base: Base = "none"
