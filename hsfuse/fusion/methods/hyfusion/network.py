"""The network of HyFusion: a branch at each resolution, joined by one more group."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.hyfusion.config import HyfusionSettings
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows, resized, zeroed

_SLOPE, _SHARE = 0.2, 0.2


class WindowAttention(nn.Module):
    """Self-attention among the pixels of a window, with a bias by relative position."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = math.gcd(width, heads), side
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * side - 1) ** 2, self.heads))
        at = torch.arange(side)
        row, col = (grid.flatten() for grid in torch.meshgrid(at, at, indexing="ij"))
        index = (row[:, None] - row + side - 1) * (2 * side - 1) + (col[:, None] - col + side - 1)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Attend in one window each, (n, token, width)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index].permute(2, 0, 1)[None].to(x.dtype)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


class WindowBlock(nn.Module):
    """Attention in windows, shifted by half of one in every second block, and a feed-forward part."""

    def __init__(self, width: int, heads: int, side: int, *, shifted: bool, ratio: int) -> None:
        super().__init__()
        self.shift, self.side = side // 2 if shifted else 0, side
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = WindowAttention(width, heads, side)
        self.feed = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Refine (n, width, row, col)."""
        s = self.shift
        # Shifted windows begin before the image, which is continued there; nothing wraps around.
        moved = F.pad(x, (s, 0, s, 0), mode="replicate") if s else x
        return in_windows(moved, self.side, self._window)[..., s:, s:]

    def _window(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norms[0](tokens))
        tokens = tokens + self.feed(self.norms[1](tokens))
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class DenseAttentionGroup(nn.Module):
    """Five window blocks, each of which sees what all before it made."""

    def __init__(self, width: int, growth: int, heads: int, side: int) -> None:
        super().__init__()
        wide = [width + i * growth for i in range(5)]
        self.blocks = nn.ModuleList(
            [WindowBlock(w, heads, side, shifted=i % 2 == 1, ratio=2 if i < 3 else 1) for i, w in enumerate(wide)]
        )
        self.adjust = nn.ModuleList([nn.Conv2d(w, growth if i < 4 else width, 1) for i, w in enumerate(wide)])

    def forward(self, x: Tensor) -> Tensor:
        """Refine (n, width, row, col)."""
        seen = [x]
        for number, (block, conv) in enumerate(zip(self.blocks, self.adjust, strict=True)):
            made = conv(block(torch.cat(seen, dim=1)))
            seen.append(F.leaky_relu(made, _SLOPE) if number < 4 else made)
        return x + _SHARE * seen[-1]


class Branch(nn.Module):
    """Shallow features, a chain of groups and a long skip."""

    def __init__(self, channels: int, settings: HyfusionSettings) -> None:
        super().__init__()
        s = settings
        self.enter = nn.Conv2d(channels, s.width, 3, padding=1)
        self.groups = nn.Sequential(
            *[DenseAttentionGroup(s.width, s.growth, s.heads, s.window_px) for _ in range(s.groups)]
        )
        self.leave = nn.Conv2d(s.width, s.width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return features (n, width, row, col) of that size."""
        shallow = F.leaky_relu(self.enter(x), _SLOPE)
        deep = resized(self.groups(shallow) + shallow, size)
        out: Tensor = self.leave(F.leaky_relu(deep, _SLOPE))
        return out


class Hyfusion(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.hyfusion.config.HyfusionSettings`."""

    def __init__(self, settings: HyfusionSettings) -> None:
        super().__init__(settings.base)
        joint, s = settings.n_bands + settings.n_msi, settings
        self.high, self.low = Branch(joint, settings), Branch(joint, settings)
        self.merge = nn.Conv2d(2 * s.width, s.width, 3, padding=1)
        self.last = DenseAttentionGroup(s.width, s.growth, s.heads, s.window_px)
        self.head = nn.Conv2d(s.width, s.n_bands, 3, padding=1)
        if settings.base != "none":
            zeroed(self.head)

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        hsi, msi = pair.hsi, pair.msi
        fine, coarse = msi.shape[-2:], hsi.shape[-2:]
        high = self.high(torch.cat([pair.fine, msi], dim=1), fine)
        low = self.low(torch.cat([hsi, resized(msi, coarse)], dim=1), fine)
        out: Tensor = self.head(self.last(self.merge(torch.cat([high, low], dim=1))))
        return out


def build(settings: HyfusionSettings) -> Hyfusion:
    """Make the untrained network."""
    return Hyfusion(settings)
