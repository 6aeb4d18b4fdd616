"""Four branches with dense residual blocks: joint and single streams at both resolutions (CSAKD, S3RNet)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.nets.pair_network import ScaledPair, resized, zeroed

SLOPE, SHARE = 0.2, 0.2
"""Of the leaky activation below zero; of a block's output that is added to its input."""


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees what all before it made."""

    def __init__(self, width: int, growth: int, groups: int = 1) -> None:
        super().__init__()
        sizes = [(width + i * growth, growth if i < 4 else width) for i in range(5)]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, groups=groups) for a, b in sizes])
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
            with torch.no_grad():
                conv.weight.mul_(0.1)  # type: ignore[operator]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Refine (n, width, row, col)."""
        seen = [x]
        *first, last = self.convs
        for conv in first:
            seen.append(F.leaky_relu(conv(torch.cat(seen, dim=1)), SLOPE))
        return x + SHARE * last(torch.cat(seen, dim=1))


class ResidualAggregation(nn.Module):
    """Three dense blocks with a residual around them."""

    def __init__(self, width: int, growth: int, groups: int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[DenseBlock(width, growth, groups) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        """Refine (n, width, row, col)."""
        return x + SHARE * self.blocks(x)


class FourBranches(nn.Module):
    """Features of the HSI, of the MSI, of both at low and of both at high resolution.

    Parameters
    ----------
    n_bands, n_msi
        Bands of HSI and MSI.
    width, growth
        Channels of the features and of the dense blocks.
    depths
        Residual aggregations of each branch: joint at high resolution, joint at low resolution, HSI, MSI.
    grouped
        The HSI's branch uses grouped convolutions (groups of two channels of the features).
    """

    def __init__(
        self, n_bands: int, n_msi: int, width: int, growth: int, depths: tuple[int, int, int, int], grouped: bool
    ) -> None:
        super().__init__()
        joint = n_bands + n_msi
        groups = width // 2 if grouped else 1
        chains = zip((joint, joint, n_bands, n_msi), depths, (1, 1, groups, 1), strict=True)
        self.high, self.low, self.hsi, self.msi = (
            nn.Sequential(
                nn.Conv2d(bands, width, 3, padding=1),
                nn.LeakyReLU(SLOPE),
                *[ResidualAggregation(width, growth, count) for _ in range(depth)],
            )
            for bands, depth, count in chains
        )

    def forward(self, pair: ScaledPair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features at high resolution, (n, width, row, col) each: HSI, MSI, joint low, joint high."""
        hsi, msi = pair.hsi, pair.msi
        fine, coarse = msi.shape[-2:], hsi.shape[-2:]
        high = self.high(torch.cat([pair.fine, msi], dim=1))
        low = self.low(torch.cat([hsi, resized(msi, coarse)], dim=1))
        own = self.hsi(hsi)
        low, own = (F.interpolate(x, size=fine, mode="nearest") for x in (low, own))
        return own, self.msi(msi), low, high


class BandHead(nn.Module):
    """From features to bands: two convolutions."""

    def __init__(self, width: int, n_bands: int, *, zero: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, n_bands, 3, padding=1)
        self.last = nn.Conv2d(n_bands, n_bands, 3, padding=1, bias=False)
        if zero:
            zeroed(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, band, row, col)."""
        out: Tensor = self.last(F.leaky_relu(self.first(x), SLOPE))
        return out
