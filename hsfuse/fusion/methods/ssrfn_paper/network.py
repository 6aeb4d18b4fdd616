"""SSRFN: spatial-spectral recurrent fusion network.

It turns a low-resolution cube and a high-resolution multispectral image into a high-resolution cube. Other networks put
its modules to other uses.

References
----------
SSRFN, IEEE JSTARS 17, 2024, doi 10.1109/JSTARS.2024.3469184.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsfuse.degrade import upsample
from hsfuse.errors import UsageError
from hsfuse.fusion.methods.ssrfn_paper.blocks import (
    CyclicErrors,
    DeepFeatures,
    FeatureFusion,
    MixerFactory,
    Refinement,
    ShallowFeatures,
    SpatialCorrection,
    pool,
)
from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.nets.layers import FeatureUpsample, SequenceMixer, channels_last
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

MIN_STD = 1e-4
"""Floor of a band's deviation, reflectance."""


def _column(x: Tensor) -> Tensor:
    return x.float()[:, :, None, None]


class Ssrfn(nn.Module):
    """The network. See :class:`SsrfnConfig` for its variants.

    Parameters
    ----------
    config
        Shape of the network.
    """

    def __init__(self, config: SsrfnConfig) -> None:
        super().__init__()
        self.config = config
        width, mixers = config.width, MixerFactory(config)
        self.sfe_hsi = ShallowFeatures(config.n_bands, config)
        self.sfe_msi = ShallowFeatures(config.n_msi, config)
        self.dfe = DeepFeatures(config, mixers)
        self.dfe_hsi = DeepFeatures(config, mixers) if config.dfe_sharing == "msi" else None
        self.cfe = CyclicErrors(config, mixers) if config.use_correction else None
        self.scm = SpatialCorrection(config) if config.use_correction else None
        self.up_errors = FeatureUpsample(width, config.shuffle_ratio) if config.use_correction else None
        self.up_hsi = FeatureUpsample(width, config.shuffle_ratio)
        self.spar = Refinement("spatial", config, mixers) if config.refinement != "spectral" else None
        self.sper = Refinement("spectral", config, mixers) if config.refinement != "spatial" else None
        self.ffm = FeatureFusion(config.n_bands, config, mixers)
        # A correction starts at zero. Without a base, sums of gated features would start far above reflectance.
        self.ffm.scale_output(0.01 if config.base == "none" else 0.0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def n_parameters(self) -> int:
        """Number of learned values."""
        return sum(p.numel() for p in self.parameters())

    def set_recompute(self, on: bool) -> None:
        """Trade time for memory in training: recompute Mamba blocks in the backward pass instead of storing them."""
        for module in self.modules():
            if isinstance(module, SequenceMixer):
                module.recompute = on

    def forward(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics | None = None) -> Tensor:
        """Fuse.

        Parameters
        ----------
        hsi
            Low-resolution cube, reflectance, shape (n, band, row, col).
        msi
            High-resolution image, reflectance, shape (n, msi band, row * ratio, col * ratio).
        scene
            Statistics of the whole scene that the tiles belong to. Without them those of each sample are used,
            which is right for whole scenes and training patches but would leave seams between tiles.

        Returns
        -------
        torch.Tensor
            Fused cube, float32, shape (n, band, row * ratio, col * ratio).

        Raises
        ------
        UsageError
            Shapes do not fit the configuration or each other.
        """
        ratio, config = self._check(hsi, msi), self.config
        if config.normalisation == "none":
            out = self._network(self._enter(hsi), self._enter(msi), ratio)
            return out if config.base == "none" else out + upsample(hsi.float(), ratio)
        mean, std, msi_mean, msi_std = self._scale(scene or SceneStatistics.of(hsi, msi))
        x, guide = (hsi.float() - mean) / std, (msi.float() - msi_mean) / msi_std
        out = self._network(self._enter(x), self._enter(guide), ratio) * std
        # Only a network without a base has to restore the mean.
        return out + (mean if config.base == "none" else upsample(hsi.float(), ratio))

    def _network(self, x: Tensor, guide: Tensor, ratio: int) -> Tensor:
        """Return what all modules make of scaled images, float32, shape (n, band, row * ratio, col * ratio)."""
        f_hsi = (self.dfe_hsi or self.dfe)(self.sfe_hsi(x))
        f_msi = self.dfe(self.sfe_msi(guide))
        if self.cfe is not None and self.scm is not None and self.up_errors is not None:
            errors = self.cfe(f_hsi, self.dfe(self.sfe_msi(channels_last(pool(guide, ratio)))))
            f_msi = self.scm(self.up_errors(errors, ratio), f_msi)
        stack = torch.cat([self.up_hsi(f_hsi, ratio), f_msi], dim=1)
        del f_msi
        refined: list[Tensor] = [part(stack) for part in (self.spar, self.sper) if part is not None]
        del stack
        fused: Tensor = self.ffm(refined[0], refined[-1])
        return fused.float()

    def _enter(self, x: Tensor) -> Tensor:
        return channels_last(x.to(self.sfe_hsi.skip.weight.dtype))

    def _scale(self, scene: SceneStatistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offsets and divisors of HSI and MSI, shape (n or 1, band, 1, 1)."""
        mean, std = _column(scene.mean), _column(scene.std).clamp(min=MIN_STD)
        msi_mean, msi_std = _column(scene.msi_mean), _column(scene.msi_std).clamp(min=MIN_STD)
        if self.config.normalisation == "band":
            return mean, std, msi_mean, msi_std
        level = mean.abs().mean(dim=1, keepdim=True).clamp(min=MIN_STD)
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        return zero, level * one, torch.zeros_like(msi_mean), level * torch.ones_like(msi_mean)

    def _check(self, hsi: Tensor, msi: Tensor) -> int:
        """Return the ratio, or say what does not fit."""
        config = self.config
        if hsi.shape[1] != config.n_bands or msi.shape[1] != config.n_msi:
            raise UsageError(
                f"The network takes {config.n_bands} HSI and {config.n_msi} MSI bands, "
                f"not {hsi.shape[1]} and {msi.shape[1]}.",
                hint="Select the bands that the network was made for.",
            )
        ratio = msi.shape[2] // hsi.shape[2]
        if ratio < 2 or msi.shape[2:] != (hsi.shape[2] * ratio, hsi.shape[3] * ratio):
            raise UsageError(
                f"An MSI of {msi.shape[2]} x {msi.shape[3]} pixels does not nest in an HSI of "
                f"{hsi.shape[2]} x {hsi.shape[3]} pixels.",
                hint="The MSI must be a whole number of times (at least 2) larger in both directions.",
            )
        return ratio
