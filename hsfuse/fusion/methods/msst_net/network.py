"""The network of MSST-Net.

The published one learns its upsampling for one ratio, by sub-pixel convolution; here features are interpolated, which
serves every ratio. Positions of patches are learned (the release draws them anew in every call), and so are the
weights of the three transformers on each side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.msst_net.config import MsstNetSettings
from hsfuse.fusion.nets.attention import ChannelNorm, TransformerLayer
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows, resized, zeroed

_POSITIONS = 8


class ResidualStem(nn.Module):
    """Residual blocks from a stack of images to bands."""

    def __init__(self, channels: int, settings: MsstNetSettings) -> None:
        super().__init__()
        width = settings.features
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
                for _ in range(settings.blocks)
            ]
        )
        self.leave = nn.Conv2d(width, settings.n_bands, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, band, row, col)."""
        first = features = self.enter(x)
        for block in self.blocks:
            features = features + block(features)
        out: Tensor = self.leave(features + first)
        return out


class ChannelLayer(nn.Module):
    """Attention among the channels of each head in a window, and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([ChannelNorm(width), ChannelNorm(width)])
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.feed = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Refine one window each, (window, width, row, col)."""
        query, key, value = self.qkv(self.norms[0](x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2)
        found = torch.softmax(scores, dim=-1) @ value
        x = x + self.out(found.flatten(1, 2).unflatten(2, x.shape[-2:]))
        out: Tensor = x + self.feed(self.norms[1](x))
        return out


class SpectralTransformer(nn.Module):
    """Bands to channels, attention among those, and back."""

    def __init__(self, n_bands: int, width: int, settings: MsstNetSettings) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(n_bands, width, 1), ChannelNorm(width))
        self.layers = nn.Sequential(*[ChannelLayer(width, settings.heads) for _ in range(settings.layers)])
        self.back = nn.Conv2d(width, n_bands, 1)
        self.leave = nn.Conv2d(n_bands, n_bands, 3, padding=1)

    def forward(self, x: Tensor, side: int) -> Tensor:
        """Refine (n, band, row, col) in windows of ``side`` pixels."""
        out: Tensor = self.leave(self.back(in_windows(self.enter(x), side, self.layers)))
        return out


class SpatialTransformer(nn.Module):
    """Patches to tokens, attention among those of a window, and back."""

    def __init__(self, n_bands: int, patch: int, settings: MsstNetSettings) -> None:
        super().__init__()
        width = settings.embed
        self.enter = nn.Conv2d(n_bands, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, width, _POSITIONS, _POSITIONS))
        self.layers = nn.Sequential(*[TransformerLayer(width, settings.heads) for _ in range(settings.layers)])
        self.back = nn.ConvTranspose2d(width, n_bands, patch, patch)
        self.leave = nn.Conv2d(n_bands, n_bands, 3, padding=1)

    def forward(self, x: Tensor, side: int) -> Tensor:
        """Refine (n, band, row, col) in windows of ``side`` pixels, a multiple of the patches'."""
        out: Tensor = self.leave(in_windows(x, side, self._window))
        return out

    def _window(self, window: Tensor) -> Tensor:
        patches = self.enter(window)
        size = patches.shape[-2:]
        place = F.interpolate(self.position, size=size, mode="bilinear", align_corners=False)
        tokens = self.layers((patches + place).flatten(2).transpose(1, 2))
        out: Tensor = self.back(tokens.transpose(1, 2).unflatten(2, size))
        return out


class Side(nn.Module):
    """Residual stem and three transformers, whose weighted mean is added to what they got."""

    def __init__(
        self, channels: int, settings: MsstNetSettings, make: Callable[[int], nn.Module], sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.stem = ResidualStem(channels, settings)
        self.transformers = nn.ModuleList([make(size) for size in sizes])
        self.shares = nn.Parameter(torch.zeros(len(sizes)))

    def forward(self, stack: Tensor, side: int) -> Tensor:
        """Return (n, band, row, col)."""
        x = self.stem(stack)
        shares = torch.softmax(self.shares, dim=0)
        parts = [share * transformer(x, side) for share, transformer in zip(shares, self.transformers, strict=True)]
        out: Tensor = x + torch.stack(parts).sum(dim=0)
        return out


class MsstNet(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.msst_net.config.MsstNetSettings`."""

    def __init__(self, settings: MsstNetSettings) -> None:
        super().__init__(settings.base)
        s = self.settings = settings
        bands, joint = s.n_bands, s.n_bands + s.n_msi
        self.low = Side(joint, s, lambda width: SpectralTransformer(bands, width, s), s.spectral_widths)
        self.high = Side(joint, s, lambda patch: SpatialTransformer(bands, patch, s), s.patches_px)
        self.before = nn.Sequential(
            nn.Conv2d(bands, s.features, 3, padding=1), nn.GELU(), nn.Conv2d(s.features, s.features, 3, padding=1)
        )
        self.after = nn.Conv2d(s.features, bands, 3, padding=1)
        self.merge = nn.Sequential(nn.Conv2d(2 * bands, bands, 3, padding=1), nn.GELU())
        self.head = nn.Conv2d(bands, bands, 3, padding=1)
        if s.base != "none":
            zeroed(self.head)

    def spectral(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Work at low resolution: (n, band, row, col) from the HSI and the MSI, which is brought to its size."""
        out: Tensor = self.low(torch.cat([hsi, resized(msi, hsi.shape[-2:])], dim=1), self.settings.window_px)
        return out

    def spatial(self, fine: Tensor, msi: Tensor, ratio: int) -> Tensor:
        """Work at high resolution: (n, band, row, col) from what is known of the cube, and the MSI."""
        out: Tensor = self.high(torch.cat([fine, msi], dim=1), self.settings.window_px * ratio)
        return out

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        low = self.after(resized(self.before(self.spectral(pair.hsi, pair.msi)), pair.msi.shape[-2:]))
        high = self.spatial(pair.fine, pair.msi, pair.ratio)
        out: Tensor = self.head(self.merge(torch.cat([low, high], dim=1)))
        return out


def build(settings: MsstNetSettings) -> MsstNet:
    """Make the untrained network."""
    return MsstNet(settings)
