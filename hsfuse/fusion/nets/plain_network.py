"""Networks that turn HSI and MSI into the cube in one call, behind the interface of every fusion method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.degrade import upsample
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import (
    FusionContext,
    FusionMethod,
    LowResolutionStrip,
    ModelSpec,
    NetworkMethod,
    Precision,
)
from hsfuse.fusion.classical.statistics import PairStatistics, gather, noise_std
from hsfuse.fusion.create import create_method
from hsfuse.fusion.diagnostics import CorrectionValidation, MethodDiagnostics
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.nets.compiling import compiled
from hsfuse.fusion.nets.half import TYPES, probe_pair, settle
from hsfuse.fusion.nets.reduced_validation import estimate_error, reduced_windows, tell_share, validate_correction
from hsfuse.fusion.nets.scene_check import check_scene
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.nets.weights import LoadedNetwork

_COUNTED_PX = 16
"""Side of the HSI for which operations are counted; a multiple of usual windows."""


class PlainNetworkMethod(NetworkMethod):
    """A network that is called with HSI and MSI.

    Where its weights name a base, it corrects that method's estimate: it is called as ``network(hsi, msi, statistics,
    estimate)``, and the share of its correction that helps on the scene itself is used (see
    :mod:`hsfuse.fusion.nets.reduced_validation`).

    Parameters
    ----------
    loaded
        The network with its weights. It is called as ``network(hsi, msi)`` with reflectance, shapes
        (n, band, row, col) and (n, msi band, row * ratio, col * ratio), and returns the cube, (n, band, row * ratio,
        col * ratio).
    statistics
        Call it as ``network(hsi, msi, statistics)`` with :class:`SceneStatistics` of the whole scene: a network that
        scaled every tile by its own statistics would leave seams.
    halo_px
        How far it looks around a pixel, HSI pixels; weights may say otherwise.
    overlap_px, multiple_px, preferred_tile_px, bytes_per_pixel
        See :class:`hsfuse.fusion.base.ModelSpec`.
    reference
        Paper or source.
    precision
        Type of its arithmetic.
    validate
        Test the correction of a base estimate on the scene; False uses all of it.
    """

    def __init__(
        self,
        loaded: LoadedNetwork,
        *,
        statistics: bool = False,
        halo_px: int = 4,
        overlap_px: int = 0,
        multiple_px: int = 1,
        preferred_tile_px: int = 64,
        bytes_per_pixel: int = 4000,
        reference: str = "",
        precision: Precision = "fp32",
        validate: bool = True,
    ) -> None:
        self._network, self._header, self._sha256 = loaded.network.eval(), loaded.header, loaded.sha256
        self.architecture = loaded.header.architecture
        self._takes_statistics = statistics
        self._tiling = (loaded.header.halo_px or halo_px, loaded.header.overlap_px or overlap_px, multiple_px)
        self._tile, self._bytes = preferred_tile_px, bytes_per_pixel
        self._reference, self._precision = reference, precision
        self._run: Callable[..., Tensor] = self._network
        self._scene: SceneStatistics | None = None
        self._validate = validate
        self._base: FusionMethod | None = None
        self._share: Tensor | None = None
        self._validation: CorrectionValidation | None = None

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._network

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        halo, overlap, multiple = self._tiling
        header = self._header
        base = self._base_spec
        if base is not None:
            halo = -(-max(halo, base.halo_px) // multiple) * multiple
        return ModelSpec(
            name=header.name,
            kind="network",
            halo_px=halo,
            overlap_px=overlap,
            multiple_px=multiple,
            preferred_tile_px=self._tile,
            bytes_per_pixel=self._bytes if base is None else max(self._bytes, base.bytes_per_pixel),
            flop_per_pixel=self._flop_per_pixel + (0.0 if base is None else base.flop_per_pixel),
            centre_nm=header.centre_nm or None,
            ratios=header.ratios or None,
            n_msi=header.n_msi or None,
            precisions=tuple(TYPES),
            precision=self._precision,
            reference=self._reference,
            weights_sha256=self._sha256,
        )

    @cached_property
    def _flop_per_pixel(self) -> float:
        """Operations per fine pixel, counted in one call."""
        header = self._header
        ratio, bands = (header.ratios or (3,))[0], len(header.centre_nm) or 100
        weight = next(self._network.parameters())
        side = -(-_COUNTED_PX // self._tiling[2]) * self._tiling[2]
        hsi = torch.zeros(1, bands, side, side, dtype=weight.dtype, device=weight.device)
        msi = hsi.new_zeros(1, header.n_msi or 4, side * ratio, side * ratio)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            fine = hsi.new_zeros(1, bands, side * ratio, side * ratio).float() if header.base else None
            self._call(hsi, msi, SceneStatistics.of(hsi, msi), fine)
        return float(counter.get_total_flops()) / (side * ratio) ** 2

    @property
    def _base_spec(self) -> ModelSpec | None:
        if not self._header.base:
            return None
        return (self._base or create_method(self._header.base)).spec

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """The base method's calibration, and the test of the correction."""
        calibration = None if self._base is None else self._base.diagnostics.calibration
        return MethodDiagnostics(calibration, self._validation)

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Check the scene, take its statistics; fit the base estimate and test how much of the correction helps.

        Raises
        ------
        UsageError
            Bands or ratio are not those that the network was trained for.
        """
        check_scene(self._header, context)
        statistics = gather(strips)
        self._scene = SceneStatistics.of_pair(statistics, context.device)
        self._base, self._share, self._validation = None, None, None
        self._run = self._network
        self._precision = settle(self._network, context.device, self._precision, self._probe(strips, context))
        if self._header.base:
            self._fit_correction(self._header.base, context, strips, statistics)
        self._run = compiled(self._network, context.device)

    def _fit_correction(
        self, name: str, context: FusionContext, strips: Iterable[LowResolutionStrip], statistics: PairStatistics
    ) -> None:
        """Fit the base estimate, learn its error and how much of the correction helps."""
        scene = self._scene
        if scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.")
        self._base = create_method(name)
        self._base.fit(context, strips)
        calibration = self._base.diagnostics.calibration
        if calibration is not None:
            context = replace(context, psf=calibration.psf)
        bands = statistics.bands
        noise = noise_std(statistics.covariance[:bands, :bands], statistics.count)
        windows = reduced_windows(create_method(name), context, strips, noise, _noise_of_guide(strips))
        error = estimate_error(windows)
        if error is not None:
            told = torch.as_tensor(error, dtype=torch.float32, device=context.device)[None]
            self._scene = scene._replace(error=told)
        if self._validate:
            self._validation = validate_correction(self._correction, windows, bands)
            self._share = torch.as_tensor(self._validation.share, device=context.device)[:, None, None]
            tell_share(self._header.name, self._validation)

    @torch.inference_mode()
    def fuse(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        if self._scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        if self._base is None:
            return self._fused(hsi, msi, self._scene)
        estimate = self._base.fuse(hsi, msi).float()
        if self._validation is not None and not self._validation.share.any():
            return estimate
        change = self._fused(hsi, msi, self._scene, estimate) - estimate
        return estimate + (change if self._share is None else self._share * change)

    @torch.inference_mode()
    def _correction(self, hsi: Tensor, msi: Tensor, estimate: Tensor) -> Tensor:
        if self._scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.")
        return self._fused(hsi, msi, self._scene, estimate) - estimate

    def _probe(self, strips: Iterable[LowResolutionStrip], context: FusionContext) -> Callable[[], Tensor]:
        """What runs the network on a piece of the scene, for its precision."""

        def probe() -> Tensor:
            if self._scene is None:
                raise HsfuseError("The fusion method was not fitted to the scene.")
            hsi, msi = probe_pair(strips, context.ratio, context.device)
            estimate = upsample(hsi, context.ratio) if self._header.base else None
            fused = self._fused(hsi, msi, self._scene, estimate)
            return fused if estimate is None else fused - estimate

        return probe

    def _fused(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics, estimate: Tensor | None = None) -> Tensor:
        kind = next(self._network.parameters()).dtype
        fused = self._call(hsi.to(kind), msi.to(kind), scene, estimate).float()
        expected = (*hsi.shape[:2], *msi.shape[2:])
        if fused.shape != expected:
            raise UsageError(f"The network '{self._header.name}' returned {tuple(fused.shape)} instead of {expected}.")
        return fused

    def _call(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics, estimate: Tensor | None) -> Tensor:
        more: tuple[object, ...] = (scene,) if self._takes_statistics else ()
        if estimate is not None:
            more = (scene, estimate)
        return self._run(hsi, msi, *more)


def _noise_of_guide(strips: Iterable[LowResolutionStrip]) -> NDArray[np.float64] | None:
    """Noise of every MSI band at its own resolution; None where that is not at hand."""
    fine = [strip.fine for strip in strips if strip.fine is not None]
    return guide_noise([GuideSample.take(image, np.asarray(np.isfinite(image).all(axis=0))) for image in fine])
