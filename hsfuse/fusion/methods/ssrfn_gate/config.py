"""Settings of the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hsfuse.fusion.nets.choices import MambaKind
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
        Residual pairs of convolutions; of ``backbone="ssrfn"``, blocks of deep features.
    most
        Outputs beyond so many units of the estimate's error is compressed.
    backbone
        ``plain`` convolutions, or the modules of SSRFN: shallow and deep features of both images, cyclic correction,
        spatial and spectral refinement, feature fusion.
    mamba
        Kind of its scans; ``none`` for convolutions alone (``backbone="ssrfn"``).
    """

    width: int = 16
    blocks: int = 1
    most: int = 8
    backbone: Literal["plain", "ssrfn"] = "plain"
    mamba: MambaKind = "mamba2"
