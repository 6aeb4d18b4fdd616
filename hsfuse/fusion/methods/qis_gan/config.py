"""Settings of QIS-GAN."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class QisGanSettings(NetworkSettings):
    """Shape of the generator.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width
        Channels of both encoders.
    hidden
        Units of the first layer of the query networks; the second has half of them.
    passed
        Features that the first query hands to the second.
    base
        What the output is added to; the interpolated HSI as published.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int = 64
    hidden: int = 256
    passed: int = 32
    base: Base = "bicubic"
