"""SSRFN: spatial-spectral recurrent fusion network, literal or as the correction of a classical base estimate.

The literal network (``ssrfn-paper``) turns a low-resolution cube and a high-resolution multispectral image into a
high-resolution cube. The everyday presets keep every module but start from a base estimate that a classical method
made: the network sees the base estimate beside both inputs and returns what to add to it, in units of each band's
standard deviation in the scene. Their last layer starts at zero, so an untrained network returns the base estimate
exactly.

References
----------
SSRFN, IEEE JSTARS 17, 2024, doi 10.1109/JSTARS.2024.3469184.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.degrade import Window, upsample
from hsfuse.degrade.windows import finer, grown, inside, whole
from hsfuse.errors import UsageError
from hsfuse.fusion.methods.ssrfn_paper.bands import EstimateFeatures, bands_to, rows_at_once
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
from hsfuse.fusion.methods.ssrfn_paper.config import PRESETS, SsrfnConfig
from hsfuse.fusion.nets.context import CORRECTION_CONTEXT, Context
from hsfuse.fusion.nets.denoiser import GuideDenoiser
from hsfuse.fusion.nets.layers import FeatureUpsample, SequenceMixer, arsinh, channels_last, conv1x1, mean3x3
from hsfuse.fusion.nets.native.estimate import read_estimate
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

MIN_STD = 1e-4
"""Floor of a band's deviation, reflectance."""
_SMALLEST_RATIO = 3
"""That networks are trained for."""


def _film(fresh: Tensor, noise: tuple[Tensor, Tensor] | None) -> Tensor:
    """Scale and shift shallow features by what is known about the scene's noise."""
    if noise is None:
        return fresh
    return fresh * noise[0] + noise[1] if torch.is_grad_enabled() else fresh.mul_(noise[0]).add_(noise[1])


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
        reach = reach_px(config)
        self.context = CORRECTION_CONTEXT if config.base == "estimate" else Context(features=reach, refined=reach)
        width, mixers = config.width, MixerFactory(config)
        corrects = config.base == "estimate"
        self.estimate_in = conv1x1(config.n_bands, config.estimate_features) if corrects else None
        scaled = config.error_scaled
        self.detail_in = conv1x1(config.n_bands, config.estimate_features) if scaled else None
        self.sfe_hsi = ShallowFeatures((2 if scaled else 1) * config.n_bands, config)
        guides = (1 if corrects else 0) + (1 if scaled else 0)
        self.sfe_msi = ShallowFeatures(config.n_msi + guides * config.estimate_features, config)
        self.condition = nn.Linear(config.n_bands, 2 * width) if config.noise_aware else None
        self.dfe = DeepFeatures(config, mixers)
        self.dfe_hsi = DeepFeatures(config, mixers) if config.dfe_sharing == "msi" else None
        self.cfe = CyclicErrors(config, mixers) if config.use_correction else None
        self.scm = SpatialCorrection(config) if config.use_correction else None
        self.up_errors = FeatureUpsample(width, config.shuffle_ratio) if config.use_correction else None
        self.up_hsi = FeatureUpsample(width, config.shuffle_ratio)
        self.spar = Refinement("spatial", config, mixers) if config.refinement != "spectral" else None
        self.sper = Refinement("spectral", config, mixers) if config.refinement != "spatial" else None
        self.ffm = FeatureFusion(config.n_bands, config, mixers)
        self.spectral_skip = conv1x1(config.n_bands, config.n_bands, bias=False) if config.spectral_skip else None
        wide = config.guide_denoiser
        self.denoiser = None if wide is None else GuideDenoiser(config.n_msi, wide).requires_grad_(False)
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)
        # A correction starts at zero. Without a base, sums of gated features would start far above reflectance.
        self.ffm.scale_output(0.01 if config.base == "none" else 0.0)
        if self.spectral_skip is not None:
            nn.init.zeros_(self.spectral_skip.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def denoise(self, msi: Tensor, scene: SceneStatistics, noise: Tensor | None) -> Tensor:
        """Denoise the MSI before it is used: for the base estimate, and for :meth:`forward`.

        Parameters
        ----------
        msi
            Shape (n, msi band, row, col).
        scene
            Statistics of the scene.
        noise
            Standard deviation of the MSI's noise at its own resolution, shape (n or 1, msi band); None: unknown.
        """
        if self.denoiser is None or noise is None:
            return msi
        cleaned: Tensor = self.denoiser(msi, scene.msi_mean, scene.msi_std, noise)
        return cleaned

    @property
    def n_parameters(self) -> int:
        """Number of learned values."""
        return sum(p.numel() for p in self.parameters())

    def set_recompute(self, on: bool) -> None:
        """Trade time for memory in training: recompute Mamba blocks in the backward pass instead of storing them."""
        for module in self.modules():
            if isinstance(module, SequenceMixer):
                module.recompute = on

    def forward(
        self, hsi: Tensor, msi: Tensor, estimate: Tensor | None = None, scene: SceneStatistics | None = None
    ) -> Tensor:
        """Fuse.

        Parameters
        ----------
        hsi
            Low-resolution cube, reflectance, shape (n, band, row, col).
        msi
            High-resolution image, reflectance, shape (n, msi band, row * ratio, col * ratio).
        estimate
            A first high-resolution cube, shape (n, band, row * ratio, col * ratio); needed for ``base="estimate"``.
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
        base, correction = self.parts(hsi, msi, estimate, scene)
        return base + correction

    def parts(
        self,
        hsi: Tensor,
        msi: Tensor,
        estimate: Tensor | None = None,
        scene: SceneStatistics | None = None,
        window: Window | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the base (estimate, interpolated HSI or zeros) and the correction whose sum is the result.

        With a window (rows and columns of the HSI) both are those of the window alone. The rest is context: layers
        stop computing it where those after them need it no more.
        """
        config = self.config
        ratio = self._check(hsi, msi, estimate)
        window = window or whole(hsi)
        shown = finer(window, ratio)
        scene = scene or SceneStatistics.of(hsi, msi)
        if config.base == "estimate" and estimate is not None:
            base = estimate.float()
        elif config.base == "bicubic":
            base = upsample(hsi.float(), ratio)
        else:
            base = torch.zeros((), device=hsi.device)
        mean, std, msi_mean, msi_std = self._scale(scene)
        x = (hsi.float() - mean) / std
        guide, skip = self._enter((msi.float() - msi_mean) / msi_std), None
        unit = std
        if self.estimate_in is not None:
            level = self._relative_error(scene)[:, :, None, None] if config.error_scaled else None
            read = self._read_estimate(base, mean, std, level, ratio, shown)
            guide, skip = channels_last(torch.cat([guide, read.features], dim=1)), read.skip
            if level is not None and read.low is not None:
                x = torch.cat([x, arsinh((x - read.low) / level)], dim=1)
                unit = level * std
            del read
        features = self._network(self._enter(x), guide, ratio, self._error_features(scene), window)
        base = base[..., *shown] if base.dim() else base
        if config.normalisation == "none":
            return base, self._leave(features, skip, torch.ones_like(std))
        change = self._leave(features, skip, unit)
        # Only a network without a base has to restore the mean.
        return base, change + mean if config.base == "none" else change

    def _read_estimate(
        self, base: Tensor, mean: Tensor, std: Tensor, level: Tensor | None, ratio: int, shown: Window
    ) -> EstimateFeatures:
        """Project the base estimate's bands to features; what is as large as itself lives for a few rows only.

        What skips the network is made for the pixels that are shown.
        """
        done = self._read_compiled(base, mean, std, level, ratio, shown)
        if done is not None:
            return done
        rows = base.shape[2]
        step = rows_at_once(base, base.shape[1], ratio)
        if step >= rows:
            return self._read_rows(base, slice(0, rows), mean, std, level, ratio, shown)
        count, _, _, cols = base.shape
        kind = {"dtype": self.sfe_hsi.skip.weight.dtype, "device": base.device}
        width = self.config.estimate_features * (1 if level is None else 2)
        features = channels_last(torch.empty((count, width, rows, cols), **kind))  # type: ignore[call-overload]
        low = base.new_empty((*base.shape[:2], rows // ratio, cols // ratio)) if level is not None else None
        size = (shown[0].stop - shown[0].start, shown[1].stop - shown[1].start)
        skip = base.new_empty((*base.shape[:2], *size)) if self.spectral_skip is not None else None
        for top in range(0, rows, step):
            at = slice(top, min(top + step, rows))
            part = self._read_rows(base, at, mean, std, level, ratio, shown)
            features[:, :, at] = part.features
            if low is not None and part.low is not None:
                low[:, :, at.start // ratio : at.stop // ratio] = part.low
            if skip is not None and part.skip is not None:
                first = max(at.start - shown[0].start, 0)
                skip[:, :, first : first + part.skip.shape[2]] = part.skip
        return EstimateFeatures(features, low, skip)

    def _read_compiled(
        self, base: Tensor, mean: Tensor, std: Tensor, level: Tensor | None, ratio: int, shown: Window
    ) -> EstimateFeatures | None:
        """Read the base estimate by the C kernel; None where it does not serve."""
        plain, detail, skip = self.estimate_in, self.detail_in, self.spectral_skip
        if level is None or plain is None or detail is None or skip is None:
            return None
        maps = plain.weight.flatten(1), detail.weight.flatten(1), skip.weight.flatten(1)
        done = read_estimate(base, (mean, std, level), maps, (plain.bias, detail.bias), ratio, shown)
        return None if done is None else EstimateFeatures(*done)

    def _read_rows(
        self,
        base: Tensor,
        rows: slice,
        mean: Tensor,
        std: Tensor,
        level: Tensor | None,
        ratio: int,
        shown: Window,
    ) -> EstimateFeatures:
        dtype = self.sfe_hsi.skip.weight.dtype
        first, last = (max(rows.start - 1, 0), min(rows.stop + 1, base.shape[2])) if level is not None else (
            rows.start, rows.stop
        )  # fmt: skip
        around = (base[:, :, first:last] - mean) / std
        d = around[:, :, rows.start - first : rows.stop - first]
        features, detail, low = [bands_to(self.estimate_in, d.to(dtype))], d, None
        if level is not None:
            above, below = int(rows.start == first), int(rows.stop == last)
            # In float32 whatever the network's type: a difference of neighbours would be lost in half precision.
            detail = arsinh((d - mean3x3(F.pad(around, (1, 1, above, below), mode="replicate"))) / level)
            low = pool(d, ratio)
        detail = detail.to(dtype)
        if level is not None:
            features.append(bands_to(self.detail_in, detail))
        first, last = (min(max(edge - rows.start, 0), d.shape[2]) for edge in (shown[0].start, shown[0].stop))
        seen = detail[:, :, first:last, shown[1]]
        skip = bands_to(self.spectral_skip, seen) if self.spectral_skip is not None and first < last else None
        return EstimateFeatures(torch.cat(features, dim=1), low, skip)

    def _leave(self, features: Tensor, skip: Tensor | None, unit: Tensor) -> Tensor:
        """Turn the last features into bands, add what skips the network, and bring both to ``unit``; float32."""
        head = self.ffm.head
        step = rows_at_once(features, unit.shape[1])
        if head is None or step >= features.shape[2]:
            out = (features if head is None else head(features)).float()
            return (out if skip is None else out + skip.float()) * unit
        shape = (features.shape[0], unit.shape[1], *features.shape[2:])
        result = torch.zeros(shape) if skip is None else skip
        for top in range(0, shape[2], step):
            at = slice(top, top + step)
            result[:, :, at].add_(bands_to(head, features[:, :, at])).mul_(unit)
        return result

    def _network(
        self, x: Tensor, guide: Tensor, ratio: int, noise: tuple[Tensor, Tensor] | None, window: Window
    ) -> Tensor:
        """Return what :attr:`ffm` makes of all features, shape (n, width, window row * ratio, window col * ratio)."""
        f_hsi = self.sfe_hsi(x)
        f_msi = self.sfe_msi(guide)
        f_hsi, f_msi = _film(f_hsi, noise), _film(f_msi, noise)
        f_hsi = (self.dfe_hsi or self.dfe)(f_hsi)
        f_msi = self.dfe(f_msi)
        if self.cfe is not None and self.scm is not None and self.up_errors is not None:
            f_low = _film(self.sfe_msi(channels_last(pool(guide, ratio))), noise)
            errors = self.cfe(f_hsi, self.dfe(f_low))
            f_msi = self.scm(self.up_errors(errors, ratio), f_msi)
        kept = grown(window, self.context.refined, (x.shape[2], x.shape[3]))
        near = finer(kept, ratio)
        stack = torch.cat([self.up_hsi(f_hsi, ratio)[..., *near], f_msi[..., *near]], dim=1)
        del f_msi
        refined: list[Tensor] = [part(stack) for part in (self.spar, self.sper) if part is not None]
        del stack
        return self.ffm.features(refined[0], refined[-1])[..., *finer(inside(window, kept), ratio)]

    def _enter(self, x: Tensor) -> Tensor:
        return channels_last(x.to(self.sfe_hsi.skip.weight.dtype))

    def _scale(self, scene: SceneStatistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offsets and divisors of HSI and MSI, shape (n or 1, band, 1, 1)."""
        mean, std = _column(scene.mean), _column(scene.std).clamp(min=MIN_STD)
        msi_mean, msi_std = _column(scene.msi_mean), _column(scene.msi_std).clamp(min=MIN_STD)
        mode = self.config.normalisation
        if mode == "band":
            return mean, std, msi_mean, msi_std
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        msi_zero, msi_one = torch.zeros_like(msi_mean), torch.ones_like(msi_mean)
        if mode == "none":
            return zero, one, msi_zero, msi_one
        level = mean.abs().mean(dim=1, keepdim=True).clamp(min=MIN_STD)
        return zero, level * one, msi_zero, level * msi_one

    def _relative_error(self, scene: SceneStatistics) -> Tensor:
        """Expected error of the base estimate over the band's deviation, -60 dB at least, shape (n or 1, band)."""
        relative = scene.error.float() / scene.std.float().clamp(min=MIN_STD)
        return relative.clamp(min=1e-3, max=10.0)

    def _error_features(self, scene: SceneStatistics) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of the shallow features, from the expected error of every band."""
        if self.condition is None:
            return None
        # Decibels over 20.
        level = torch.log10(self._relative_error(scene)) + 2.0
        scale, shift = self.condition(level.to(self.condition.weight.dtype)).chunk(2, dim=1)
        return (1.0 + scale)[:, :, None, None], shift[:, :, None, None]

    def _check(self, hsi: Tensor, msi: Tensor, estimate: Tensor | None) -> int:
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
        if config.base == "estimate":
            expected = (hsi.shape[0], hsi.shape[1], *msi.shape[2:])
            if estimate is None or estimate.shape != expected:
                raise UsageError(f"This network corrects a base estimate of shape {expected}, which it was not given.")
        return ratio


def reach_px(config: SsrfnConfig) -> int:
    """How far the convolutions on the fine grid look, HSI pixels.

    Scans and coarse features reach further, but what they carry from beyond is a fraction of a stored step: with
    trained ``ssrfn-lite``, a tile without and with its surroundings differs by 1e-2 (root mean square) at the edge,
    6e-5 from 4 HSI pixels inwards and 3e-5 from 12.
    """
    shallow, deep, refined = 4, 3 * config.dfe_blocks, config.refine_stages
    return -(-(shallow + deep + (config.scm_steps if config.use_correction else 0) + refined) // _SMALLEST_RATIO)


def make_network(name_or_config: str | SsrfnConfig, **changes: Any) -> Ssrfn:
    """Make an untrained network from a preset's name or a configuration, with some settings changed.

    Raises
    ------
    UsageError
        There is no such preset, or a setting is unknown or impossible.
    """
    if isinstance(name_or_config, str):
        if name_or_config not in PRESETS:
            raise UsageError(f"There is no network '{name_or_config}'.", hint=f"Choose one of: {', '.join(PRESETS)}.")
        name_or_config = PRESETS[name_or_config]
    config = SsrfnConfig.from_dict({**name_or_config.to_dict(), **changes}) if changes else name_or_config
    return Ssrfn(config)
