"""The network of SSR-NET.

The published insertion copies MSI bands to places spread evenly over the interpolated HSI's bands, which is right where
MSI bands are bands of the HSI. Bands enter in units of their deviation in the scene, so that a band of another response
is no false radiance.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.ssrnet.config import SsrnetSettings
from hsfuse.fusion.nets.pair_network import PairNetwork, ScaledPair, zeroed


class Ssrnet(PairNetwork):
    """Cross-mode insertion, then one convolution for both, one for space and one for the spectrum."""

    def __init__(self, settings: SsrnetSettings) -> None:
        super().__init__(settings.base)
        bands, count = settings.n_bands, settings.n_msi
        places = [min(i * bands // max(count - 1, 1), bands - 1) for i in range(count)] if count > 1 else [bands // 2]
        self.places = places
        self.merge, self.spatial, self.spectral = (nn.Conv2d(bands, bands, 3, padding=1) for _ in range(3))
        if self.base != "none":
            zeroed(self.spectral)

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images."""
        mixed = pair.fine.clone()
        mixed[:, self.places] = pair.msi
        features = F.relu(self.merge(mixed))
        spatial = features + self.spatial(features)
        spectral: Tensor = self.spectral(spatial)
        # The correction starts at zero; the literal network adds its last convolution to what it got.
        return spectral if self.base != "none" else spatial + spectral


def build(settings: SsrnetSettings) -> Ssrnet:
    """Make the untrained network."""
    return Ssrnet(settings)
