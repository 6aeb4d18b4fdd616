"""Teacher and student of CSAKD: the same network at different depths."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hsfuse.fusion.methods.csakd.config import CsakdSettings
from hsfuse.fusion.nets.dual_stream import BandHead, FourBranches
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows

_HEADS, _HEAD_CHANNELS = 4, 16


class CrossSelfAttention(nn.Module):
    """Attention among the channels of a head: query from the HSI, key from the MSI, value from both at low resolution.

    The matrices sum over pixels of a window, so that a result does not depend on the tile that it is computed in.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _HEADS * _HEAD_CHANNELS
        self.query, self.key, self.value = (nn.Conv2d(width, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, hsi: Tensor, msi: Tensor, low: Tensor, side: int) -> Tensor:
        """Attend (n, width, row, col) in windows of ``side`` pixels."""
        stack = torch.cat([self.query(hsi), self.key(msi), self.value(low)], dim=1)
        out: Tensor = self.out(in_windows(stack, side, self._attend))
        return out

    @staticmethod
    def _attend(stack: Tensor) -> Tensor:
        size = stack.shape[-2:]
        heads = stack.flatten(2).unflatten(1, (3, _HEADS, _HEAD_CHANNELS))
        query, key, value = heads.unbind(1)
        # A mean over pixels instead of a sum: windows of another size give weights of the same sharpness.
        scores = query @ key.transpose(-1, -2) / (math.sqrt(_HEAD_CHANNELS) * math.sqrt(query.shape[-1]))
        return (torch.softmax(scores, dim=-1) @ value).flatten(1, 2).unflatten(2, size)


class Csakd(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.csakd.config.CsakdSettings`."""

    def __init__(self, settings: CsakdSettings) -> None:
        super().__init__(settings.base)
        self.settings = settings
        width = settings.channels
        depths = (settings.depth_high, settings.depth_low, settings.depth_hsi, settings.depth_msi)
        self.branches = FourBranches(
            settings.n_bands, settings.n_msi, width, settings.growth_channels, depths, settings.grouped
        )
        attends = settings.fusion == "attention"
        self.attention = CrossSelfAttention(width) if attends else None
        self.maps = nn.Conv2d(4 * width, 4, 1) if attends else None
        self.head = BandHead(width, settings.n_bands, zero=settings.base != "none")

    def features(self, pair: ScaledPair) -> Tensor:
        """Return the fused features, shape (n, width, row, col)."""
        own, guide, low, high = self.branches(pair)
        if self.attention is None or self.maps is None:
            return own + guide + low + high
        attended = high + self.attention(own, guide, low, self.settings.window_px * pair.ratio)
        parts = (own, guide, low, attended)
        weights = torch.sigmoid(self.maps(torch.cat(parts, dim=1)))
        return torch.stack([weights[:, i : i + 1] * part for i, part in enumerate(parts)]).sum(dim=0)

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        out: Tensor = self.head(self.features(pair))
        return out


def build(settings: CsakdSettings) -> Csakd:
    """Make the untrained network."""
    return Csakd(settings)
