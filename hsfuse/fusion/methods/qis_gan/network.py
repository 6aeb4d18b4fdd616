"""Generator and discriminator of QIS-GAN."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.qis_gan.config import QisGanSettings
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, zeroed


def _neighbours(wanted: int, given: int, side: float) -> tuple[Tensor, Tensor]:
    """Nearest cell before (side -1) or behind (side 1) each wanted place of one axis, and how far it lies from it.

    Places are counted in cells, in double precision: half precision would mistake a neighbour for another.

    Returns
    -------
    (cell, distance)
        Index and distance in cells, both of shape (wanted,).
    """
    place = (torch.arange(wanted, dtype=torch.float64) + 0.5) * (given / wanted)
    # Not quite half a cell: a place at a cell's centre stays in that cell.
    cell = torch.floor(place + side * 0.5 * (1.0 - 1e-4)).clamp(0, given - 1)
    return cell.long(), place - (cell + 0.5)


class Query(nn.Module):
    """Value of features at any place: the four nearest cells answer, weighted by a softmax.

    Parameters
    ----------
    features, guide
        Channels of the coarse features and of the guide at the wanted places.
    hidden, out
        Units of the first layer (the second has half of them), and values that are returned.
    """

    def __init__(self, features: int, guide: int, hidden: int, out: int) -> None:
        super().__init__()
        sizes = (features + guide + 2, hidden, hidden // 2, out + 1)
        layers = [nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes)]
        self.last = layers[2]
        self.mlp = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())

    def forward(self, features: Tensor, guide: Tensor) -> Tensor:
        """Query (n, feature, row, col) where the guide (n, guide, row', col') lies."""
        rows, cols = guide.shape[-2:]
        values, logits = [], []
        for up in (-1.0, 1.0):
            row, below = _neighbours(rows, features.shape[-2], up)
            for left in (-1.0, 1.0):
                col, beside = _neighbours(cols, features.shape[-1], left)
                near = features.index_select(-2, row.to(features.device)).index_select(-1, col.to(features.device))
                away = torch.stack([below[:, None].expand(rows, cols), beside[None].expand(rows, cols)])
                away = away.to(features.device, features.dtype).expand(features.shape[0], -1, -1, -1)
                answer = self.last(self.mlp(torch.cat([near, guide, away], dim=1)))
                values.append(answer[:, :-1])
                logits.append(answer[:, -1:])
        weights = torch.softmax(torch.stack(logits), dim=0)
        return (torch.stack(values) * weights).sum(dim=0)


class QisGenerator(PairNetwork):
    """Two queries: to half the way, and to the MSI's grid. The sizes between are free, and so is the ratio."""

    def __init__(self, settings: QisGanSettings) -> None:
        super().__init__(settings.base)
        width = settings.width
        self.settings = settings
        self.spatial = nn.Conv2d(settings.n_bands + settings.n_msi, width, 3, padding=1)
        self.spectral = nn.Conv2d(settings.n_bands, width, 3, padding=1)
        self.first = Query(width, width, settings.hidden, settings.passed)
        self.second = Query(settings.passed, width, settings.hidden, settings.n_bands)
        if self.base == "estimate":
            zeroed(self.second.last)

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        hsi, ratio = pair.hsi, pair.ratio
        guide = F.relu(self.spatial(torch.cat([pair.msi, pair.fine], dim=1)))
        # A whole number of cells for each HSI pixel, whatever the ratio: tiles then agree.
        half = -(-ratio // 2)
        between = F.adaptive_max_pool2d(guide, (hsi.shape[-2] * half, hsi.shape[-1] * half))
        middle = self.first(F.relu(self.spectral(hsi)), between)
        out: Tensor = self.second(middle, guide)
        return out


class Discriminator(nn.Module):
    """Tells cubes from fused ones: strided convolutions, 64 to 512 channels."""

    def __init__(self, n_bands: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(n_bands, width, 3, padding=1), nn.LeakyReLU(0.2)]
        inner = width
        for factor, stride in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
            outer = factor * width
            # The published batch norm would mix the patches of a batch, whose losses have to add up.
            layers += [nn.Conv2d(inner, outer, 3, stride, 1), nn.GroupNorm(1, outer), nn.LeakyReLU(0.2)]
            inner = outer
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(nn.Linear(inner, 2 * inner), nn.LeakyReLU(0.2), nn.Linear(2 * inner, 1))

    def forward(self, cube: Tensor) -> Tensor:
        """Return the probability that each cube (n, band, row, col) is real, shape (n,)."""
        return torch.sigmoid(self.judge(self.features(cube).mean(dim=(2, 3)))).squeeze(1)


def build(settings: QisGanSettings) -> QisGenerator:
    """Make the untrained generator."""
    return QisGenerator(settings)
