"""SSRFN behind the interface of every fusion method: base estimate, network, validation at reduced resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Window, upsample
from hsfuse.degrade.windows import finer, grown, inside, whole
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import (
    FusionContext,
    FusionMethod,
    LowResolutionStrip,
    ModelSpec,
    NetworkMethod,
    Precision,
)
from hsfuse.fusion.classical.statistics import gather, noise_std
from hsfuse.fusion.create import create_method
from hsfuse.fusion.diagnostics import CorrectionValidation, MethodDiagnostics
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.methods.ssrfn_paper.config import DEFAULT_BASE, PRESETS, SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.description import DENOISER_REACH_PX, blocks_of, describe
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.compiling import compiled
from hsfuse.fusion.nets.denoising_effort import STEPS, THOROUGH_STEPS
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.fusion.nets.guide_adaptation import AdaptedDenoiser, adapt_denoiser
from hsfuse.fusion.nets.half import TYPES, probe_pair, settle
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.reduced_validation import estimate_error, reduced_windows, tell_share, validate_correction
from hsfuse.fusion.nets.scene_check import check_scene
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.nets.weights import LoadedNetwork, load_named
from hsfuse.log import get_logger

_log = get_logger(__name__)

_PIXELS_AT_ONCE = 1_000_000
"""Fine pixels that a card is given in one call of the network."""


class SsrfnMethod(NetworkMethod):
    """SSRFN on a scene.

    Parameters
    ----------
    network
        With its weights.
    name
        Name on the command line.
    header
        Description that came with the weights; None for an untrained network (tests and benchmarks).
    sha256
        Hash of the weights file.
    precision
        Type of the network's arithmetic; base estimates, scaling and sums stay float32.
    validate
        Test the network on the scene at reduced resolution and use the share of its correction that helps there.
    denoiser_steps
        Steps in which the denoiser of the MSI, if the network has one, learns from the scene; 0 leaves it as it is.
    """

    architecture = "ssrfn"

    def __init__(
        self,
        network: Ssrfn,
        *,
        name: str = "ssrfn",
        header: NetworkHeader | None = None,
        sha256: str | None = None,
        precision: Precision = "fp32",
        validate: bool = True,
        denoiser_steps: int = STEPS,
    ) -> None:
        if precision not in TYPES:
            raise UsageError(
                f"SSRFN does not run in precision '{precision}'.", hint=f"Choose one of: {', '.join(TYPES)}."
            )
        self._network = network.eval()
        self._name, self._header, self._sha256 = name, header, sha256
        self._precision, self._validate = precision, validate
        self._base: FusionMethod | None = None
        self._scene: SceneStatistics | None = None
        self._share: Tensor | None = None
        self._validation: CorrectionValidation | None = None
        self._parts = self._network.parts
        self._denoiser_steps = denoiser_steps
        self._thorough = False
        self._denoising: AdaptedDenoiser | None = None
        self._noise_of_guide: Tensor | None = None

    @classmethod
    def from_weights(cls, name_or_path: str | Path, **options: Any) -> SsrfnMethod:
        """Load a network of the zoo or a weights file.

        Raises
        ------
        UsageError
            There is no such network, or nobody has trained it.
        InputError
            The weights cannot be used.
        """
        return cls.from_loaded(load_named(name_or_path), **options)

    @classmethod
    def from_loaded(cls, loaded: LoadedNetwork, **options: Any) -> SsrfnMethod:
        """Take a network that was loaded with its weights."""
        if not isinstance(loaded.network, Ssrfn):
            raise UsageError(f"The weights '{loaded.header.name}' are not those of an SSRFN.")
        return cls(loaded.network, name=loaded.header.name, header=loaded.header, sha256=loaded.sha256, **options)

    @classmethod
    def untrained(cls, config: SsrfnConfig | str, **options: Any) -> SsrfnMethod:
        """Make a method with random weights: for tests and benchmarks only, never for a product."""
        if isinstance(config, str):
            options.setdefault("name", config)
            config = PRESETS[config]
        return cls(Ssrfn(config), **options)

    @property
    def network(self) -> Ssrfn:
        """The network itself (for training)."""
        return self._network

    def prefer_quality(self) -> None:
        """Let the denoiser take longer to learn from the scene and to clean it, for the last bit of quality."""
        self._denoiser_steps = max(self._denoiser_steps, THOROUGH_STEPS) if self._denoiser_steps else 0
        self._thorough = True

    @property
    def n_bands(self) -> int:
        """HSI bands that it takes."""
        return self._network.config.n_bands

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """The base method's calibration, the test of the correction, and what the denoiser learned from the scene."""
        calibration = self._base.diagnostics.calibration if self._base is not None else None
        denoising = None if self._denoising is None else self._denoising.record
        return MethodDiagnostics(calibration, self._validation, denoising)

    @property
    def _context_px(self) -> int:
        """Context that the network itself is given, HSI pixels; a base estimate takes its own from the whole tile."""
        header = self._header
        return header.halo_px if header and header.halo_px else self._network.context.features

    @property
    def _blocks(self) -> FixedBlocks:
        """Blocks that the correction is computed in."""
        return blocks_of(self._context_px)

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        config = self._network.config
        estimate = self._base.spec if self._base else self._base_method().spec if config.base == "estimate" else None
        return describe(
            config, name=self._name, header=self._header, sha256=self._sha256, precision=self._precision,
            context_px=self._context_px, estimate=estimate, denoiser_steps=self._denoiser_steps,
            thorough=self._thorough,
        )  # fmt: skip

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the base estimate, take the scene's statistics and test how much of the correction helps.

        Raises
        ------
        UsageError
            Bands or ratio are not those that the network was made for.
        """
        self._check_scene(context)
        config = self._network.config
        statistics = gather(strips)
        bands = statistics.bands
        noise = noise_std(statistics.covariance[:bands, :bands], statistics.count)
        self._scene = SceneStatistics.of_pair(statistics, context.device)
        self._precision = settle(self._network, context.device, self._precision, self._probe(strips, context))
        self._parts = compiled(self._network.parts, context.device)
        self._share = self._validation = None
        noise_of_guide = self._learn_denoising(strips, self._scene, context)
        if config.base != "estimate":
            return
        self._base = self._base_method()
        self._base.fit(context, strips)
        calibration = self._base.diagnostics.calibration
        if calibration is not None:
            context = replace(context, psf=calibration.psf)
        clean = None if self._denoising is None else self._clean
        windows = reduced_windows(self._base_method(), context, strips, noise, noise_of_guide, clean)
        error = estimate_error(windows)
        if error is not None:
            self._scene = self._scene._replace(
                error=torch.as_tensor(error, dtype=torch.float32, device=context.device)[None]
            )
        if self._validate:
            self._validation = validate_correction(self._correction, windows, bands)
            self._share = torch.as_tensor(self._validation.share, device=context.device)[:, None, None]
            tell_share(self._name, self._validation)

    def fuse(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        return self.fuse_window(hsi, msi, whole(hsi))

    @torch.inference_mode()
    def fuse_window(self, hsi: Tensor, msi: Tensor, window: Window) -> Tensor:
        """As :meth:`fuse`; the correction is computed in blocks of the scene, so that no tiling changes it."""
        if self._scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        if self._base is None:
            base, change = self._parts(hsi, self._clean(msi), None, self._scene, window)
            return base + change
        ratio, size = msi.shape[2] // hsi.shape[2], (hsi.shape[2], hsi.shape[3])
        unused = self._validation is not None and not self._validation.share.any()
        blocks = self._blocks
        needed = window if unused else blocks.needed(window, size)
        given = grown(needed, self._base.spec.halo_px + DENOISER_REACH_PX, size)
        hsi, guide = hsi[..., *given], self._clean(msi[..., *finer(given, ratio)])
        estimate = self._base.fuse_window(hsi, guide, inside(needed, given)).float()
        if unused:
            return estimate

        def correction(parts: Sequence[Window], shown: Window) -> Tensor:
            cut = [self._cut(hsi, guide, estimate, part, given, needed, ratio) for part in parts]
            low, fine, base = cut[0] if len(cut) == 1 else (torch.cat(alike) for alike in zip(*cut, strict=True))
            change: Tensor = self._parts(low, fine, base, self._scene, shown)[1]
            return change

        change = blocks.apply(correction, window, size, ratio, self._blocks_together(hsi, ratio))
        base = estimate[..., *finer(inside(window, needed), ratio)].contiguous()
        return base.add_(change) if self._share is None else base.addcmul_(change, self._share)

    @staticmethod
    def _cut(
        hsi: Tensor, guide: Tensor, estimate: Tensor, part: Window, given: Window, needed: Window, ratio: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the network is given of a part of the image: HSI, guide and base estimate."""
        low, there = inside(part, given), finer(inside(part, needed), ratio)
        return hsi[..., *low], guide[..., *finer(low, ratio)], estimate[..., *there].contiguous()

    def _blocks_together(self, hsi: Tensor, ratio: int) -> int:
        """Blocks that the network is given in one call."""
        if hsi.device.type == "cpu":
            return 1
        side = ratio * self._blocks.given_px
        return max(_PIXELS_AT_ONCE // (len(hsi) * side**2), 1)

    @torch.inference_mode()
    def _clean(self, msi: Tensor) -> Tensor:
        if self._denoising is None or self._scene is None or self._noise_of_guide is None:
            return msi
        return self._denoising.clean(
            msi, self._scene.msi_mean, self._scene.msi_std, self._noise_of_guide, thorough=self._thorough
        )

    @torch.inference_mode()
    def _correction(self, hsi: Tensor, msi: Tensor, estimate: Tensor) -> Tensor:
        return self._network.parts(hsi, msi, estimate, self._scene)[1]

    def _probe(self, strips: Iterable[LowResolutionStrip], context: FusionContext) -> Callable[[], Tensor]:
        """What runs the network on a piece of the scene, for its precision."""

        def probe() -> Tensor:
            hsi, msi = probe_pair(strips, context.ratio, context.device)
            estimate = upsample(hsi, context.ratio) if self._network.config.base == "estimate" else None
            return self._network.parts(hsi, msi, estimate, self._scene)[1].float()

        return probe

    def _learn_denoising(
        self, strips: Iterable[LowResolutionStrip], scene: SceneStatistics, context: FusionContext
    ) -> NDArray[np.float64] | None:
        """Measure the MSI's noise and let the denoiser learn from the scene; None without denoiser or measurement."""
        self._denoising = self._noise_of_guide = None
        if self._network.denoiser is None:
            return None
        samples = [
            GuideSample.take(strip.fine, np.asarray(np.isfinite(strip.fine).all(axis=0)))
            for strip in strips
            if strip.fine is not None
        ]
        noise = guide_noise(samples)
        if noise is None:
            return None
        level = torch.as_tensor(noise, dtype=torch.float32, device=context.device)[None]
        blocks = [block for sample in samples for block in sample.blocks]
        self._noise_of_guide = level
        self._denoising = adapt_denoiser(
            self._network.denoiser, blocks, scene.msi_mean, scene.msi_std, level,
            steps=self._denoiser_steps, seed=context.seed,
        )  # fmt: skip
        if not math.isnan(self._denoising.record.left_after):
            _log.info(
                "%s: denoising leaves %.0f %% of the variance of the multispectral image's noise (%.0f %% before it "
                "learned from the scene).",
                self._name, 100.0 * self._denoising.record.left_after, 100.0 * self._denoising.record.left_before,
            )  # fmt: skip
        return noise

    def _base_method(self) -> FusionMethod:
        name = self._header.base if self._header and self._header.base else DEFAULT_BASE
        left = self._denoising.record.left_after if self._denoising else math.nan
        if name != DEFAULT_BASE or math.isnan(left):
            return create_method(name)
        return create_method(name, noise_left=min(max(left, 0.0), 1.0))

    def _check_scene(self, context: FusionContext) -> None:
        config = self._network.config
        if self._header is not None:
            check_scene(self._header, context)
        elif context.centre_nm.size != config.n_bands:
            raise UsageError(f"This network takes {config.n_bands} bands, the scene brings {context.centre_nm.size}.")
