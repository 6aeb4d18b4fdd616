"""What the networks share that turn HSI and MSI into a cube in one call: scaling, the interpolated HSI, windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.degrade import upsample
from hsfuse.errors import UsageError
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

MIN_STD = 1e-4
"""Floor of a band's deviation, reflectance."""


class PairNetwork(nn.Module):
    """A network that sees every band in units of its mean and deviation in the whole scene.

    Parameters
    ----------
    skip
        Add what the network returns to the interpolated HSI; otherwise it returns the cube itself.
    """

    def __init__(self, *, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip

    @abstractmethod
    def body(self, hsi: Tensor, msi: Tensor, ratio: int) -> Tensor:
        """Fuse scaled images.

        Parameters
        ----------
        hsi, msi
            Shapes (n, band, row, col) and (n, msi band, row * ratio, col * ratio).

        Returns
        -------
        torch.Tensor
            Shape (n, band, row * ratio, col * ratio): the scaled cube, or what is to be added to it.
        """

    def forward(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics | None = None) -> Tensor:
        """Fuse reflectance; without statistics every sample is its own scene.

        Raises
        ------
        UsageError
            The images do not nest.
        """
        ratio = msi.shape[-1] // hsi.shape[-1]
        if ratio < 2 or msi.shape[-2:] != (hsi.shape[-2] * ratio, hsi.shape[-1] * ratio):
            raise UsageError(f"An MSI of {tuple(msi.shape)} does not nest in an HSI of {tuple(hsi.shape)}.")
        scene = scene or SceneStatistics.of(hsi, msi)
        mean, std, msi_mean, msi_std = (v.float()[:, :, None, None] for v in scene[:4])
        std, msi_std = std.clamp(min=MIN_STD), msi_std.clamp(min=MIN_STD)
        kind = next(self.parameters()).dtype
        scaled = ((hsi.float() - mean) / std).to(kind), ((msi.float() - msi_mean) / msi_std).to(kind)
        out = self.body(*scaled, ratio).float() * std
        return upsample(hsi.float(), ratio) + out if self.skip else mean + out


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring (n, channel, row, col) to a size: bilinear upwards, means of areas downwards; centres keep their place."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-1] > size[-1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


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
    padded = F.pad(x, (0, -cols % side, 0, -rows % side), mode="replicate")
    n, _, height, width = padded.shape
    windows = padded.unflatten(2, (height // side, side)).unflatten(4, (width // side, side))
    done = run(windows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
    back = done.unflatten(0, (n, height // side, width // side)).permute(0, 3, 1, 4, 2, 5)
    return back.flatten(4, 5).flatten(2, 3)[..., :rows, :cols]


def n_parameters(network: nn.Module) -> int:
    """Count learned values."""
    return sum(p.numel() for p in network.parameters())
