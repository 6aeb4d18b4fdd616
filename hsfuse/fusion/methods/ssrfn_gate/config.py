"""Settings of the gate."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.fusion.nets.settings import NetworkSettings

REFERENCE = "hsfuse; experts of the scene weighed by one network for all sensors"
BASE = "glp"
"""Method of the base estimate."""


@dataclass(frozen=True)
class GateConfig(NetworkSettings):
    """Everything that decides the network's shape; bands, MSI bands and ratio do not.

    Attributes
    ----------
    width
        Feature channels.
    blocks
        Residual pairs of convolutions.
    most
        Advice beyond so many units of the estimate's error is compressed.
    """

    width: int = 16
    blocks: int = 1
    most: int = 8
