"""The fusion network of UHNTC, and what it learns about how both sensors see a cube.

The published network keeps to ten leading components by a penalty; here it returns those components. Its perceptual
term needs weights of a network for photographs and is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from numpy.typing import NDArray
from torch import Tensor, nn

from hsfuse.degrade import Psf, psf_kernel
from hsfuse.fusion.nets.attention import ChannelNorm
from hsfuse.fusion.nets.pair_network import in_windows, padded_to, zeroed

LEVELS = 3
CELL = 2 ** (LEVELS - 1)
WINDOW_PX = 4
"""Side of the attention windows at every level, HSI pixels."""


class CrossLevel(nn.Module):
    """The HSI's features ask, the MSI's answer: attention among the pixels of a window, and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(width), ChannelNorm(width)])
        self.query, self.answer = nn.Conv2d(width, width, 1), nn.Conv2d(width, 2 * width, 1)
        self.mix = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.LeakyReLU(0.2))

    def forward(self, hsi: Tensor, msi: Tensor, side: int) -> Tensor:
        """Return (n, width, row, col)."""
        stack = torch.cat([self.query(self.norms[0](hsi)), self.answer(self.norms[1](msi))], dim=1)
        told = in_windows(stack, side, self._attend)
        out: Tensor = hsi + self.mix(torch.cat([told, msi], dim=1))
        return out

    @staticmethod
    def _attend(stack: Tensor) -> Tensor:
        query, key, value = (t.transpose(1, 2) for t in stack.flatten(2).chunk(3, dim=1))
        found = F.scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).unflatten(2, stack.shape[-2:])


class UhntcNetwork(nn.Module):
    """Encoder and decoder over three levels, joined by cross attention and skips.

    Parameters
    ----------
    components, n_msi
        Channels of what comes in.
    width
        Features.
    """

    def __init__(self, components: int, n_msi: int, width: int) -> None:
        super().__init__()
        self.hsi = nn.ModuleList([nn.Conv2d(width if i else components, width, 3, padding=1) for i in range(LEVELS)])
        self.msi = nn.ModuleList([nn.Conv2d(width if i else n_msi, width, 3, padding=1) for i in range(LEVELS)])
        self.levels = nn.ModuleList([CrossLevel(width) for _ in range(LEVELS)])
        self.up = nn.ModuleList([nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(LEVELS - 1)])
        self.head = zeroed(nn.Conv2d(width, components, 3, padding=1))

    def forward(self, components: Tensor, msi: Tensor, ratio: int) -> Tensor:
        """Return what is to be added to the components, (n, component, row, col)."""
        rows, cols = msi.shape[-2:]
        own, guide = padded_to(components, CELL), padded_to(msi, CELL)
        kept: list[Tensor] = []
        for number, (hsi, spatial, level) in enumerate(zip(self.hsi, self.msi, self.levels, strict=True)):
            if number:
                own, guide = F.avg_pool2d(own, 2), F.avg_pool2d(guide, 2)
            own, guide = F.leaky_relu(hsi(own), 0.2), F.leaky_relu(spatial(guide), 0.2)
            own = level(own, guide, WINDOW_PX * ratio // 2**number)
            kept.append(own)
        features = kept.pop()
        for conv in self.up:
            finer = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = F.leaky_relu(conv(torch.cat([finer, kept.pop()], dim=1)), 0.2)
        out: Tensor = self.head(features)
        return out[..., :rows, :cols]


class Sensors(nn.Module):
    """How the HSI blurs and how the MSI mixes bands: both start from what is known, and are learned along.

    Parameters
    ----------
    psf, ratio
        Nominal blur.
    response, offset
        Weights that turn HSI bands into MSI bands, (msi band, band), and what is added, (msi band,).
    """

    def __init__(self, psf: Psf, ratio: int, response: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
        super().__init__()
        kernel = psf_kernel(psf, ratio)
        self.ratio, self.reach = ratio, (len(kernel) - ratio) // 2
        both = torch.as_tensor(np.outer(kernel, kernel), dtype=torch.float32)
        self.blur = nn.Parameter(both.clamp(min=1e-8).log())
        self.response = nn.Parameter(torch.as_tensor(response, dtype=torch.float32))
        self.offset = nn.Parameter(torch.as_tensor(offset, dtype=torch.float32))

    def coarse(self, image: Tensor) -> Tensor:
        """Blur and decimate (n, band, row, col)."""
        taps = self.blur.shape[0]
        weights = torch.softmax(self.blur.flatten(), dim=0).reshape(1, 1, taps, taps)
        padded = F.pad(image, (self.reach,) * 4, mode="replicate")
        n, bands = image.shape[:2]
        seen = F.conv2d(padded.flatten(0, 1)[:, None], weights, stride=self.ratio)
        return seen.reshape(n, bands, *seen.shape[-2:])

    def colours(self, cube: Tensor) -> Tensor:
        """Mix the bands of (n, band, row, col) to MSI bands."""
        mixed = torch.einsum("mb,nbij->nmij", self.response.clamp(min=0.0), cube)
        return mixed + self.offset[:, None, None]


class Subspace(NamedTuple):
    """Leading components of a scene's spectra.

    Attributes
    ----------
    mean
        Shape (band,).
    basis
        Directions in units of the components' deviations, shape (band, component).
    reader
        Turns centred spectra into components of unit deviation, shape (component, band).
    """

    mean: Tensor
    basis: Tensor
    reader: Tensor

    def components(self, cube: Tensor) -> Tensor:
        """From (n, band, row, col) to (n, component, row, col)."""
        return torch.einsum("kb,nbij->nkij", self.reader, cube - self.mean[:, None, None])

    def spectra(self, components: Tensor) -> Tensor:
        """What components (n, component, row, col) stand for, without the mean."""
        return torch.einsum("bk,nkij->nbij", self.basis, components)
