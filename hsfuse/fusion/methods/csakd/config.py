"""Settings of CSAKD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class CsakdSettings(NetworkSettings):
    """Shape of a teacher or student.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width, growth
        Channels of features and dense blocks; None: half and a quarter of the bands, as published for 172.
    depth_high, depth_low, depth_hsi, depth_msi
        Residual aggregations of the four branches.
    grouped
        Grouped convolutions in the HSI's branch.
    fusion
        ``attention``: cross self-attention and spatial weight maps; ``sum``: plain sum.
    window_px
        Side of the windows in which attention among channels is computed, HSI pixels.
    base
        What the output is added to; ours where it is not ``none``.
    distil
        Train a teacher along, and the network as its student.
    teacher_high, teacher_low, teacher_hsi, teacher_msi
        Depths of that teacher.
    teacher_steps
        First steps in which the teacher learns alone; None: both learn from the start.
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int | None = None
    growth: int | None = None
    depth_high: int = 6
    depth_low: int = 6
    depth_hsi: int = 4
    depth_msi: int = 4
    grouped: bool = False
    fusion: Literal["attention", "sum"] = "attention"
    window_px: int = 16
    base: Base = "none"
    distil: bool = False
    teacher_high: int = 6
    teacher_low: int = 6
    teacher_hsi: int = 4
    teacher_msi: int = 4
    teacher_steps: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the features, an even number."""
        return self.width or max(self.n_bands // 4, 4) * 2

    @property
    def growth_channels(self) -> int:
        """Channels of the dense blocks: a multiple of the groups where convolutions are grouped."""
        return self.growth or self.channels // 2
