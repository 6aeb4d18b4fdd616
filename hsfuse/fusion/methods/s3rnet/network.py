"""The network of S3RNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsfuse.fusion.methods.s3rnet.config import S3rnetSettings
from hsfuse.fusion.nets.dual_stream import BandHead, FourBranches
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, in_windows


class SpatialSpectralWeights(nn.Module):
    """A weight map for each branch times weights of its channels."""

    def __init__(self, width: int, branches: int = 4) -> None:
        super().__init__()
        self.width = width
        self.maps = nn.Conv2d(branches * width, branches, 1)
        self.channels = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(branches)])

    def forward(self, parts: tuple[Tensor, ...], side: int) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of branches (n, width, row, col), and the mean weight of every sample (n,)."""
        stack = torch.cat(parts, dim=1)
        maps = torch.sigmoid(self.maps(stack))
        means = in_windows(stack, side, lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x))
        total, weights = torch.zeros_like(parts[0]), maps.mean(dim=(1, 2, 3))
        for number, (part, conv) in enumerate(zip(parts, self.channels, strict=True)):
            own = torch.sigmoid(conv(means[:, number * self.width : (number + 1) * self.width]))
            total = total + maps[:, number : number + 1] * own * part
            weights = weights + own.mean(dim=(1, 2, 3))
        return total, weights


class S3rnet(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.s3rnet.config.S3rnetSettings`.

    Attributes
    ----------
    sparsity
        Mean of the weights of each sample of the last call, shape (n,): what the training keeps small.
    """

    def __init__(self, settings: S3rnetSettings) -> None:
        super().__init__(settings.base)
        width = settings.channels
        depths = (settings.depth_high, settings.depth_low, settings.depth_hsi, settings.depth_msi)
        self.window_px = settings.window_px
        self.branches = FourBranches(
            settings.n_bands, settings.n_msi, width, settings.growth or width // 2, depths, grouped=False
        )
        self.weights = SpatialSpectralWeights(width)
        self.head = BandHead(width, settings.n_bands, zero=settings.base != "none")
        self.sparsity: Tensor | None = None

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        fused, self.sparsity = self.weights(self.branches(pair), self.window_px * pair.ratio)
        out: Tensor = self.head(fused)
        return out


def build(settings: S3rnetSettings) -> S3rnet:
    """Make the untrained network."""
    return S3rnet(settings)
