"""Settings of MSST-Net."""

from __future__ import annotations

from dataclasses import dataclass

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.settings import NetworkSettings


@dataclass(frozen=True)
class MsstNetSettings(NetworkSettings):
    """Shape of the network.

    Attributes
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    features, blocks
        Channels and residual blocks of the convolutions before the transformers.
    spectral_width
        Channels of the middle spectral transformer; the others have half and twice as many.
    patch_px
        Side of the middle spatial transformer's patches, fine pixels; the others have half and twice of it.
    embed
        Channels of a patch.
    layers, heads
        Of every transformer.
    window_px
        Side of the windows in which transformers attend, HSI pixels; a multiple of twice ``patch_px``.
    pretraining_steps
        First steps of a training in which both sides fill in masked bands and patches, as published; None: none.
    base
        What the output is added to; ours where it is not ``none``.
    """

    n_bands: int = 100
    n_msi: int = 4
    features: int = 64
    blocks: int = 5
    spectral_width: int = 32
    patch_px: int = 16
    embed: int = 256
    layers: int = 4
    heads: int = 4
    window_px: int = 32
    pretraining_steps: int | None = None
    base: Base = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_px % 2 or self.window_px % (2 * self.patch_px):
            raise UsageError("MSST-Net needs an even patch side and windows of a multiple of two patches.")
        if self.spectral_width % (2 * self.heads) or self.embed % self.heads:
            raise UsageError("The heads of MSST-Net must divide half its spectral width, and its patches' channels.")

    @property
    def spectral_widths(self) -> tuple[int, int, int]:
        """Channels of the spectral transformers."""
        return self.spectral_width, self.spectral_width // 2, 2 * self.spectral_width

    @property
    def patches_px(self) -> tuple[int, int, int]:
        """Sides of the spatial transformers' patches, fine pixels."""
        return self.patch_px, self.patch_px // 2, 2 * self.patch_px
