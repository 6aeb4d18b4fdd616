"""Generator and discriminator of QIS-GAN."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.qis_gan.config import QisGanSettings
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, zeroed


def _centres(size: torch.Size, like: Tensor) -> Tensor:
    """Pixel centres, (row, col) from -1 to 1 between the image's edges, shape (2, row, col)."""
    v, u = ((torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) * (2.0 / side) - 1.0 for side in size)
    return torch.stack(torch.meshgrid(v, u, indexing="ij"))


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
        rows, cols = features.shape[-2:]
        wanted = _centres(guide.shape[-2:], features)
        given = _centres(features.shape[-2:], features)[None]
        step = torch.tensor([1.0 / rows, 1.0 / cols], device=features.device)
        values, logits = [], []
        for up in (-1.0, 1.0):
            for left in (-1.0, 1.0):
                shift = torch.tensor([up, left], device=features.device) * step * (1.0 - 1e-4)
                place = (wanted + shift[:, None, None]).clamp(-1.0 + 1e-6, 1.0 - 1e-6)
                grid = place.flip(0).permute(1, 2, 0)[None].to(features.dtype)
                many = grid.expand(features.shape[0], -1, -1, -1)
                near = F.grid_sample(features, many, mode="nearest", align_corners=False)
                cell = F.grid_sample(given, grid.float(), mode="nearest", align_corners=False)
                away = (wanted[None] - cell) / (2.0 * step[:, None, None])
                away = away.to(features.dtype).expand(features.shape[0], -1, -1, -1)
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
