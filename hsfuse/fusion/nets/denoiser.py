"""A small convolutional denoiser of the multispectral guide, conditioned on how noisy the scene is.

Fusion carries every detail of the guide into all bands of the cube, its noise too: on clean scenes with a guide of
40 dB that noise alone costs more than everything else. The denoiser returns the guide minus so many standard
deviations of its noise; without noise it changes nothing, whatever its weights.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hsfuse.fusion.nets.denoising_effort import LAYERS
from hsfuse.fusion.nets.layers import activation, arsinh, channels_last, conv3x3, mean3x3

REACH_PX = LAYERS + 1
"""A result depends on so many pixels around its own."""
_MIN_RELATIVE = 1e-4


class GuideDenoiser(nn.Module):
    """Removes noise from an MSI.

    Parameters
    ----------
    n_msi
        Bands.
    width
        Channels of the hidden layers.
    """

    def __init__(self, n_msi: int, width: int) -> None:
        super().__init__()
        sizes = [3 * n_msi, *[width] * (LAYERS - 1), n_msi]
        self.convs = nn.ModuleList([conv3x3(a, b) for a, b in itertools.pairwise(sizes)])
        self.act = activation("silu")
        last = self.convs[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, msi: Tensor, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Denoise.

        Parameters
        ----------
        msi
            Shape (n, msi band, row, col), reflectance.
        mean, std
            Of every band in the whole scene, shape (n or 1, msi band).
        noise
            Standard deviation of its noise in the scene, the same shape; 0 leaves the band as it is.

        Returns
        -------
        torch.Tensor
            The same shape as ``msi``, float32.
        """
        msi = msi.float()
        mean, std, noise = (v.float()[:, :, None, None] for v in (mean, std, noise))
        relative = (noise / std.clamp(min=1e-4)).clamp(min=_MIN_RELATIVE)
        x = (msi - mean) / std.clamp(min=1e-4)
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        detail = arsinh((x - mean3x3(padded)) / relative)
        level = (torch.log10(relative) + 2.0).expand_as(x)
        features = channels_last(torch.cat([x, detail, level], dim=1).to(next(self.parameters()).dtype))
        *hidden, last = self.convs
        for conv in hidden:
            features = conv(features, act=self.act)
        cleaned: Tensor = msi - noise * last(features).float()
        return cleaned
