"""Cubic interpolation of the HSI alone: what every fusion must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hsfuse.degrade import UPSAMPLE_HALO_PX, upsample
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec, Quality

if TYPE_CHECKING:
    import torch


class Bicubic(FusionMethod):
    """Centred cubic convolution (Keys, a = -0.5)."""

    def __init__(self) -> None:
        self._ratio = 1

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        return ModelSpec(
            name="bicubic",
            kind="classical",
            halo_px=UPSAMPLE_HALO_PX,
            preferred_tile_px=192,
            bytes_per_pixel=600,
            flop_per_pixel=4e3,
            reference="Keys 1981",
        )

    def at_quality(self, quality: Quality) -> Bicubic:  # noqa: ARG002 - there is none to choose
        """Return another one: with a step behind it that looks at the guide, it would be no interpolation."""
        return Bicubic()

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:  # noqa: ARG002
        """Remember the ratio; there is nothing to learn."""
        self._ratio = context.ratio

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Interpolate (tile, band, row, col) to the MSI's grid."""
        return upsample(hsi.float(), self._ratio)
