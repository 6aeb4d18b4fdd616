"""Layers of transformers that several networks of the zoo share."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of each pixel over the channels of (n, channel, row, col)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as its base
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TransformerLayer(nn.Module):
    """Self-attention among tokens and a feed-forward part, each behind a norm and with a residual."""

    def __init__(self, width: int, heads: int, ratio: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Refine (n, token, width)."""
        query, key, value = self.qkv(self.norms[0](tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(found)
        out: Tensor = tokens + self.feed(self.norms[1](tokens))
        return out
