"""The prior's network: a small U-Net that frees a patch of noise, given how noisy it is.

Nothing in it looks at a patch as a whole (norms are taken over channels, pixel by pixel), so what it says about a pixel
depends on the pixel's surroundings alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.diffusion.settings import PriorSettings
from hsfuse.fusion.nets.layers import conv1x1, conv3x3
from hsfuse.fusion.nets.pair_network import zeroed

SPREAD = 1.0 / 3.0
"""Standard deviation of patches, which are scaled so that three deviations are 1."""
_FREQUENCIES = 8


class _PixelNorm(nn.Module):
    """Normalisation over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * torch.rsqrt(var + 1e-5) * self.weight + self.bias


class _Block(nn.Module):
    """Residual block whose inner features are scaled and moved by the noise level."""

    def __init__(self, inside: int, width: int, level: int) -> None:
        super().__init__()
        self.norm, self.second_norm = _PixelNorm(inside), _PixelNorm(width)
        self.first, self.second = conv3x3(inside, width), zeroed(conv3x3(width, width))
        self.level = nn.Linear(level, 2 * width)
        self.skip: nn.Module = nn.Identity() if inside == width else conv1x1(inside, width)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        inner = self.first(F.silu(self.norm(x)))
        scale, move = self.level(level)[:, :, None, None].chunk(2, dim=1)
        inner = self.second(F.silu(self.second_norm(inner) * (1.0 + scale) + move))
        return self.skip(x) + inner


class PatchPrior(nn.Module):
    """See :class:`~hsfuse.fusion.nets.diffusion.settings.PriorSettings`."""

    def __init__(self, settings: PriorSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.width * 2**i for i in range(settings.levels)]
        inner = 4 * settings.width
        self.level = nn.Sequential(nn.Linear(2 * _FREQUENCIES, inner), nn.SiLU(), nn.Linear(inner, inner))
        folded = settings.n_bands * settings.fold**2
        self.stem = conv3x3(folded, widths[0])
        self.down, self.up, self.fine_to_coarse, self.coarse_to_fine = (nn.ModuleList() for _ in range(4))
        for i, width in enumerate(widths):
            self.down.append(nn.ModuleList(_Block(width, width, inner) for _ in range(settings.blocks)))
            if i + 1 < len(widths):
                self.fine_to_coarse.append(nn.Conv2d(width, widths[i + 1], 2, stride=2))
        for i in reversed(range(len(widths) - 1)):
            self.coarse_to_fine.append(conv1x1(widths[i + 1], widths[i]))
            blocks = [_Block(2 * widths[i], widths[i], inner)]
            blocks += [_Block(widths[i], widths[i], inner) for _ in range(settings.blocks - 1)]
            self.up.append(nn.ModuleList(blocks))
        self.norm, self.head = _PixelNorm(widths[0]), zeroed(conv3x3(widths[0], folded))

    def forward(self, noisy: Tensor, power: Tensor) -> Tensor:
        """Estimate the patch without its noise.

        Parameters
        ----------
        noisy
            ``sqrt(power) * patch + sqrt(1 - power) * noise``, shape (n, band, row, col), patches between -1 and 1.
        power
            Share of the signal, shape (n,).

        Returns
        -------
        torch.Tensor
            The patch, the shape of ``noisy``.

        Raises
        ------
        UsageError
            The sides are no multiples of :attr:`PriorSettings.multiple`.
        """
        if any(side % self.settings.multiple for side in noisy.shape[-2:]):
            raise UsageError(f"The prior takes sides in multiples of {self.settings.multiple} pixels.")
        keep, correct = balance(power)
        scale = torch.rsqrt(power * SPREAD**2 + 1.0 - power)[:, None, None, None]
        out: Tensor = keep * noisy + correct * self._correction(noisy * scale, self.level(_embedded(power)))
        return out

    def _correction(self, x: Tensor, level: Tensor) -> Tensor:
        kept: list[Tensor] = []
        fold = self.settings.fold
        x = self.stem(F.pixel_unshuffle(x, fold))
        for i, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, level)
            if i < len(self.fine_to_coarse):
                kept.append(x)
                x = self.fine_to_coarse[i](x)
        for narrower, blocks in zip(self.coarse_to_fine, self.up, strict=True):
            x = F.interpolate(narrower(x), scale_factor=2, mode="nearest")
            x = torch.cat([x, kept.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, level)
        return F.pixel_shuffle(self.head(F.silu(self.norm(x))), fold)


def balance(power: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a noisy patch is kept, and how much of the network's correction is added, each (n, 1, 1, 1).

    The best linear estimate for patches of deviation :data:`SPREAD`, and the error that it leaves: so the network
    learns numbers of unit size at every level of noise (Karras et al., Elucidating the design space of diffusion-based
    generative models, 2022).
    """
    power = power[:, None, None, None]
    total = power * SPREAD**2 + 1.0 - power
    return power.sqrt() * SPREAD**2 / total, SPREAD * (1.0 - power).sqrt() * torch.rsqrt(total)


def _embedded(power: Tensor) -> Tensor:
    """Sines and cosines of the noise level, shape (n, 2 * frequency)."""
    ratio = torch.log(power.clamp(1e-6, 1.0 - 1e-6) / (1.0 - power.clamp(1e-6, 1.0 - 1e-6)))
    rates = torch.exp(torch.arange(_FREQUENCIES, device=power.device) * (math.log(40.0) / _FREQUENCIES)) * 0.1
    angle = ratio[:, None] * rates[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(power.dtype)
