"""The network of FusionMamba.

Scans run in windows counted from the image's origin and not over a whole tile, so that tiles agree. The published
spectral attention takes the maximum of every band over the image; here it takes what the scene's statistics say of a
band's bright end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.fusion_mamba.blocks import FusionBlock, ScanBlock
from hsfuse.fusion.methods.fusion_mamba.config import FusionMambaSettings
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows, padded_to, zeroed

_BRIGHT = 2.0
"""A band's bright end lies so many deviations above its mean."""


class Raise(nn.Module):
    """From a coarser to the next finer scale, joined with what was kept there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        """Bring (n, 2 * width, row, col) to (n, width, 2 * row, 2 * col)."""
        return F.leaky_relu(self.mix(self.spread(F.leaky_relu(self.up(x)) + kept)))


class SpectralAttention(nn.Module):
    """A weight for every band, from a scan along the spectrum."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(1, width), nn.LayerNorm(width))
        self.scan = ScanBlock(width, states, directions=2)
        self.leave = nn.Linear(width, 1)

    def forward(self, bright: Tensor) -> Tensor:
        """Return (n, band) weights of 0 to 1 for (n, band) reflectances."""
        tokens = self.scan(self.enter(bright[..., None])[:, None])
        return torch.sigmoid(self.leave(tokens))[:, 0, :, 0]


class FusionMamba(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.fusion_mamba.config.FusionMambaSettings`."""

    def __init__(self, settings: FusionMambaSettings) -> None:
        super().__init__(settings.base)
        s = self.settings = settings
        wide = [s.width * 2**scale for scale in range(s.scales)]
        self.enter = nn.ModuleList([nn.Conv2d(count, s.width, 3, padding=1) for count in (s.n_bands, s.n_msi)])
        order = [*wide, *wide[-2::-1]]
        self.stages = nn.ModuleList([FusionBlock(w, s.states, shared=s.streams == "shared") for w in order])
        # As in the authors' release, both streams share what leads from scale to scale.
        self.down = nn.ModuleList([nn.Conv2d(w, 2 * w, 2, 2) for w in wide[:-1]])
        self.up = nn.ModuleList([Raise(w) for w in wide[-2::-1]])
        self.attention = SpectralAttention(s.width, s.states)
        self.head = nn.Sequential(nn.Conv2d(s.width, s.width, 3, padding=1), nn.LeakyReLU())
        self.last = nn.Conv2d(s.width, s.n_bands, 3, padding=1)
        self.skip = nn.Conv2d(s.n_bands, s.n_bands, 3, padding=1, groups=s.n_bands) if s.base == "none" else None
        if s.base != "none":
            zeroed(self.last)

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        rows, cols = pair.msi.shape[-2:]
        images = (padded_to(x, self.settings.cell) for x in (pair.fine, pair.msi))
        hsi, msi = (F.leaky_relu(conv(x)) for conv, x in zip(self.enter, images, strict=True))
        kept: list[tuple[Tensor, Tensor]] = []
        for number, stage in enumerate(self.stages):
            scale = min(number, len(self.stages) - 1 - number)
            hsi, msi, fusion = self._fused(stage, hsi, msi, self.settings.window_px * pair.ratio // 2**scale)
            if number < len(self.down):
                kept.append((hsi, msi))
                hsi, msi = (F.leaky_relu(self.down[number](x)) for x in (hsi, msi))
            elif number < len(self.stages) - 1:
                up = self.up[number - len(self.down)]
                hsi, msi = (up(x, before) for x, before in zip((hsi, msi), kept.pop(), strict=True))
        bright = pair.scene.mean.float() + _BRIGHT * pair.scene.std.float()
        weight = self.attention(bright.to(fusion.dtype))[:, :, None, None]
        out: Tensor = (self.last(self.head(fusion)) * weight)[..., :rows, :cols]
        return out if self.skip is None else out + self.skip(pair.fine)

    @staticmethod
    def _fused(stage: nn.Module, hsi: Tensor, msi: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        def run(window: Tensor) -> Tensor:
            first, second = window.permute(0, 2, 3, 1).chunk(2, dim=-1)
            return torch.cat(stage(first, second), dim=-1).permute(0, 3, 1, 2)

        own, guide, fusion = in_windows(torch.cat([hsi, msi], dim=1), side, run).chunk(3, dim=1)
        return own, guide, fusion


def build(settings: FusionMambaSettings) -> FusionMamba:
    """Make the untrained network."""
    return FusionMamba(settings)
