"""What the networks share that turn HSI and MSI into a cube in one call: scaling, what they start from, windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.degrade import upsample
from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Base
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

MIN_STD = 1e-4
"""Floor of a band's deviation, and of the error of a base estimate, reflectance."""
_LEAST_ERROR = 0.02
"""The error of a base estimate counts as at least this share of a band's deviation."""


class ScaledPair(NamedTuple):
    """What a network sees: images in units of each band's deviation in the scene, around its mean.

    Attributes
    ----------
    hsi, msi
        Shapes (n, band, row, col) and (n, msi band, row * ratio, col * ratio).
    fine
        The cube as far as it is known beforehand, shape (n, band, row * ratio, col * ratio): the interpolated HSI, or
        the base estimate.
    ratio
        Pixels of the MSI per pixel of the HSI.
    scene
        Statistics that the images were scaled with.
    """

    hsi: Tensor
    msi: Tensor
    fine: Tensor
    ratio: int
    scene: SceneStatistics


class PairNetwork(nn.Module):
    """A network that sees every band in units of its mean and deviation in the whole scene.

    Parameters
    ----------
    base
        What its output is added to. ``none``: it returns the cube itself. ``bicubic``: the interpolated HSI.
        ``estimate``: what a classical method makes of the pair, in units of that estimate's error.
    """

    def __init__(self, base: Base = "none") -> None:
        super().__init__()
        self.base = base

    @abstractmethod
    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images.

        Returns
        -------
        torch.Tensor
            Shape (n, band, row * ratio, col * ratio): the scaled cube, or what is to be added to the base.
        """

    def forward(
        self, hsi: Tensor, msi: Tensor, scene: SceneStatistics | None = None, estimate: Tensor | None = None
    ) -> Tensor:
        """Fuse reflectance; without statistics every sample is its own scene.

        Raises
        ------
        UsageError
            The images do not nest, or a base estimate is missing.
        """
        pair, start = self.scaled(hsi, msi, scene, estimate)
        out = self.body(pair).float()
        return self._unit(pair.scene) * out + start

    def scaled(
        self, hsi: Tensor, msi: Tensor, scene: SceneStatistics | None, estimate: Tensor | None
    ) -> tuple[ScaledPair, Tensor]:
        """Return what the body sees, and what its output is added to."""
        ratio = msi.shape[-1] // hsi.shape[-1]
        if ratio < 2 or msi.shape[-2:] != (hsi.shape[-2] * ratio, hsi.shape[-1] * ratio):
            raise UsageError(f"An MSI of {tuple(msi.shape)} does not nest in an HSI of {tuple(hsi.shape)}.")
        if self.base == "estimate" and estimate is None:
            raise UsageError("This network corrects a base estimate, and was given none.")
        scene = scene or SceneStatistics.of(hsi, msi)
        mean, std, msi_mean, msi_std = (_spread(v) for v in scene[:4])
        std, msi_std = std.clamp(min=MIN_STD), msi_std.clamp(min=MIN_STD)
        kind = next(self.parameters()).dtype
        low = ((hsi.float() - mean) / std).to(kind)
        if self.base == "none":
            start, fine = mean, resized(low, msi.shape[-2:])
        else:
            start = estimate.float() if estimate is not None else upsample(hsi.float(), ratio)
            fine = ((start - mean) / std).to(kind)
        return ScaledPair(low, ((msi.float() - msi_mean) / msi_std).to(kind), fine, ratio, scene), start

    def _unit(self, scene: SceneStatistics) -> Tensor:
        """Unit of the body's output, reflectance."""
        return output_unit(scene.std, scene.error, self.base)[:, :, None, None]


def output_unit(std: Tensor, error: Tensor, base: Base) -> Tensor:
    """Unit in which a network speaks: a band's deviation, or the expected error of the estimate that it corrects.

    Parameters
    ----------
    std, error
        Of every band, shape (n, band); an error of zero is unknown.
    """
    std = std.float().clamp(min=MIN_STD)
    if base != "estimate":
        return std
    return torch.where(error > 0, torch.maximum(error.float(), _LEAST_ERROR * std), std).clamp(min=MIN_STD)


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring (n, channel, row, col) to a size: bilinear upwards, means of areas downwards; centres keep their place."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-1] > size[-1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def padded_to(x: Tensor, multiple: int) -> Tensor:
    """Replicate the last row and column until both sides are multiples; the origin keeps its place."""
    rows, cols = x.shape[-2:]
    return F.pad(x, (0, -cols % multiple, 0, -rows % multiple), mode="replicate")


def in_windows(x: Tensor, side: int, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``run`` to windows of ``side`` by ``side`` pixels, counted from the image's origin.

    What a network computes of a whole image (means, attention among channels) would differ from tile to tile; of
    windows it is the same in every tiling that is aligned with them.

    Parameters
    ----------
    x
        Shape (n, channel, row, col); edges are replicated up to whole windows.
    run
        From (window, channel, side, side) to (window, channel', side, side).
    """
    rows, cols = x.shape[-2:]
    padded = padded_to(x, side)
    n, _, height, width = padded.shape
    windows = padded.unflatten(2, (height // side, side)).unflatten(4, (width // side, side))
    done = run(windows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
    back = done.unflatten(0, (n, height // side, width // side)).permute(0, 3, 1, 4, 2, 5)
    return back.flatten(4, 5).flatten(2, 3)[..., :rows, :cols]


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """Let a correction start at nothing: its last convolution returns zero until it has learned."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def n_parameters(network: nn.Module) -> int:
    """Count learned values."""
    return sum(p.numel() for p in network.parameters())


def _spread(values: Tensor) -> Tensor:
    return values.float()[:, :, None, None]
