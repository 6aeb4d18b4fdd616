"""The network of MIMO-SST.

Of the 4.98 M values that the authors' release registers, 1.62 M take part in its result; those are built here. What it
calls spatial attention is attention among channels as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.mimo_sst.config import MimoSstSettings
from hsfuse.fusion.nets.attention import ChannelNorm
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows, padded_to, resized, zeroed

SCALES = (1, 2, 4)
"""Fine pixels per pixel of each scale."""


class CrossAttention(nn.Module):
    """Attention among the channels of one stream, whose keys and values are those of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.project = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.spread = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)
        self.sharpness = nn.Parameter(torch.ones(1))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of a stream, (n, width, row, col) each."""
        query, key, value = self.spread(self.project(self.norm(x))).chunk(3, dim=1)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, side: int) -> Tensor:
        """Mix the values in windows of ``side`` pixels."""
        mixed = in_windows(torch.cat([query, key, value], dim=1), side, self._attend)
        out: Tensor = self.out(mixed)
        return out

    def _attend(self, stack: Tensor) -> Tensor:
        query, key, value = stack.flatten(2).chunk(3, dim=1)
        scores = F.normalize(query, dim=2) @ F.normalize(key, dim=2).transpose(1, 2)
        return (torch.softmax(scores * self.sharpness, dim=2) @ value).unflatten(2, stack.shape[-2:])


class CrossBlock(nn.Module):
    """Both streams attend to each other, then pass a convolution each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList([CrossAttention(width), CrossAttention(width)])
        self.feed = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])

    def forward(self, hsi: Tensor, msi: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Refine two streams (n, width, row, col)."""
        own, other = self.attention[0].parts(hsi), self.attention[1].parts(msi)  # type: ignore[operator]
        hsi = hsi + self.attention[0].attend(own[0], other[1], other[2], side)  # type: ignore[operator]
        msi = msi + self.attention[1].attend(other[0], own[1], own[2], side)  # type: ignore[operator]
        return hsi + F.gelu(self.feed[0](hsi)), msi + F.gelu(self.feed[1](msi))


class Stem(nn.Module):
    """Features of both images at one scale; the same weights serve all scales."""

    def __init__(self, n_bands: int, n_msi: int, width: int) -> None:
        super().__init__()
        self.hsi = nn.Conv2d(n_bands, width, 3, padding=1)
        self.msi = nn.Conv2d(n_msi, width, 3, padding=1)
        self.cross = CrossBlock(width)
        self.merge = nn.Conv2d(2 * width + n_bands + n_msi, width, 3, padding=1)

    def forward(self, fine: Tensor, msi: Tensor, side: int) -> Tensor:
        """Return (n, width, row, col)."""
        own, guide = self.cross(self.hsi(fine), self.msi(msi), side)
        out: Tensor = self.merge(torch.cat([own, guide, msi, fine], dim=1))
        return out


class MimoSst(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.mimo_sst.config.MimoSstSettings`."""

    def __init__(self, settings: MimoSstSettings) -> None:
        super().__init__(settings.base)
        width, bands = settings.width, settings.n_bands
        self.window_px = settings.window_px
        self.stem = Stem(bands, settings.n_msi, width)
        wide = [width * scale for scale in SCALES]
        self.down = nn.ModuleList([nn.Conv2d(w, w // 2, 3, padding=1, bias=False) for w in wide[:2]])
        self.join = nn.ModuleList([nn.Conv2d(w + width, w, 3, padding=1) for w in wide[1:]])
        self.up = nn.ModuleList([nn.Conv2d(w, 2 * w, 3, padding=1, bias=False) for w in wide[:0:-1]])
        self.heads = nn.ModuleList([nn.Conv2d(w, bands, 3, padding=1) for w in wide])
        if settings.base == "estimate":
            for head in self.heads:
                zeroed(head)  # type: ignore[arg-type]

    def scales(self, pair: ScaledPair) -> list[Tensor]:
        """Outputs at the three scales, finest first, (n, band, row', col'), of images padded to whole cells."""
        fine, msi = (padded_to(x, SCALES[-1]) for x in (pair.fine, pair.msi))
        stems = []
        for scale in SCALES:
            size = tuple(length // scale for length in fine.shape[-2:])
            side = self.window_px * pair.ratio // scale
            stems.append(self.stem(resized(fine, size), resized(msi, size), side))
        kept = [stems[0]]
        for stem, down, join in zip(stems[1:], self.down, self.join, strict=True):
            kept.append(F.gelu(join(torch.cat([F.pixel_unshuffle(down(kept[-1]), 2), stem], dim=1))))
        features = [kept[-1]]
        for up, skip in zip(self.up, kept[-2::-1], strict=True):
            features.append(F.gelu(F.pixel_shuffle(up(features[-1]), 2) + skip))
        return [head(x) for head, x in zip(self.heads, reversed(features), strict=True)]

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        rows, cols = pair.msi.shape[-2:]
        return self.scales(pair)[0][..., :rows, :cols]


def build(settings: MimoSstSettings) -> MimoSst:
    """Make the untrained network."""
    return MimoSst(settings)
