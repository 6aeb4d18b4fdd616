"""Generalised Laplacian pyramid with all MSI bands (GLP-HS), textbook and adaptive.

The **textbook** form predicts each HSI band from all MSI bands by one least-squares fit at low resolution, and adds
the detail that the prediction has beyond the HSI's own resolution: ``up(H) + A (M - up(down(M)))``.

The **adaptive** form (the default) keeps that skeleton and repairs what hurts on real pairs; see
:mod:`hsfuse.fusion.classical.adaptive`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import MAX_FWHM_PX, NO_OFFSET, UPSAMPLE_HALO_PX, Psf, Window, lowpass_decimate, upsample
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import ComponentFusion, FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.classical.adaptive import ADAPTIVE_HALO_PX, AdaptiveInjection
from hsfuse.fusion.classical.calibration import all_recalibrated, calibrate
from hsfuse.fusion.classical.statistics import PairStatistics, gather
from hsfuse.fusion.diagnostics import Calibration, MethodDiagnostics
from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)


class _TextbookInjection:
    """One scene-wide least-squares fit of every HSI band on all MSI bands."""

    def __init__(self, statistics: PairStatistics, context: FusionContext) -> None:
        import torch

        bands = statistics.bands
        guide = statistics.covariance[bands:, bands:]
        # Only against singular guides: the textbook has no ridge.
        guide = guide + 1e-6 * max(float(np.trace(guide)), 1e-12) * np.eye(len(guide))
        gain = np.linalg.solve(guide, statistics.covariance[bands:, :bands]).T
        self._gain = torch.as_tensor(np.ascontiguousarray(gain), dtype=torch.float32, device=context.device)
        self._ratio, self._psf = context.ratio, context.psf

    def apply(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        import torch

        detail = msi - upsample(lowpass_decimate(msi, self._ratio, self._psf), self._ratio)
        injected = torch.matmul(self._gain, detail.flatten(2)).reshape(hsi.shape[0], -1, *msi.shape[2:])
        return upsample(hsi, self._ratio).add_(injected)


class Glp(FusionMethod):
    """GLP-HS with all MSI bands.

    Parameters
    ----------
    adaptive
        False gives the textbook form.
    max_rank
        Largest dimension of the signal subspace (adaptive form).
    calibrate
        Find the HSI's blur and residual shift on the scene itself instead of relying on what is given (adaptive form).

    References
    ----------
    B. Aiazzi, L. Alparone, S. Baronti, A. Garzelli, M. Selva, MTF-tailored multiscale fusion, PE&RS 72, 2006;
    M. Selva et al., Hyper-sharpening: a first approach on SIM-GA data, IEEE JSTARS 8, 2015.
    """

    def __init__(self, *, adaptive: bool = True, max_rank: int = 32, calibrate: bool = True) -> None:
        self._adaptive = adaptive
        self._max_rank = max_rank
        self._calibrate = calibrate and adaptive
        self._calibration: Calibration | None = None
        self._textbook_reach = UPSAMPLE_HALO_PX + Psf(MAX_FWHM_PX).reach_px(2)
        self._injection: AdaptiveInjection | _TextbookInjection | None = None

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """The HSI's blur and residual shift; none where they were given or could not be found."""
        return MethodDiagnostics(calibration=self._calibration)

    @property
    def spec(self) -> ModelSpec:
        """Self-description; the textbook form's halo before :meth:`fit` is that of the widest PSF."""
        return ModelSpec(
            name="glp",
            kind="classical",
            halo_px=ADAPTIVE_HALO_PX if self._adaptive else self._textbook_reach,
            preferred_tile_px=192,
            bytes_per_pixel=600 if self._adaptive else 1300,
            flop_per_pixel=2e4,
            reference="Aiazzi 2006; Selva 2015",
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn the regression (and the subspace and noise) from the low-resolution pair.

        Raises
        ------
        OverlapError
            Too few pixels are valid in both images.
        """
        strips = list(strips)
        self._calibration = self._calibrated(strips, context) if self._calibrate else None
        offset = NO_OFFSET
        if self._calibration is not None:
            _log.debug(
                "glp: the HSI's PSF is %.2f pixels wide (given: %.2f) and lies %.3f rows, %.3f columns off.",
                self._calibration.psf.fwhm_px, context.psf.fwhm_px, *self._calibration.offset_px,
            )  # fmt: skip
            strips = all_recalibrated(strips, self._calibration, context.ratio)
            context, offset = replace(context, psf=self._calibration.psf), self._calibration.offset_px
        statistics = gather(strips)
        if not self._adaptive:
            self._textbook_reach = UPSAMPLE_HALO_PX + context.psf.reach_px(context.ratio)
            self._injection = _TextbookInjection(statistics, context)
            return
        injection = AdaptiveInjection.learn(
            statistics,
            context,
            max_rank=self._max_rank,
            offset_px=offset,
            noise_left=context.guide_noise_left,
        )
        _log.debug("glp: signal subspace of %d dimensions, misfit by band %s", injection.rank, injection.misfit)
        self._injection = injection

    @staticmethod
    def _calibrated(strips: list[LowResolutionStrip], context: FusionContext) -> Calibration | None:
        if context.calibrate:
            return calibrate(strips, context)
        return None if context.offset_px == NO_OFFSET else Calibration(context.psf, context.offset_px)

    def components_of(
        self, mean: torch.Tensor, forward: torch.Tensor, back: torch.Tensor
    ) -> ComponentFusion | None:  # fmt: skip
        """Return the adaptive injection, if the subspace is its own."""
        import torch

        own = self._injection
        if not isinstance(own, AdaptiveInjection) or own.forward.shape != forward.shape:
            return None
        alike = ((own.mean, mean), (own.forward, forward), (own.back, back))
        return own if all(torch.equal(mine, other) for mine, other in alike) else None

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        if self._injection is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        return self._injection.apply(hsi.float(), msi.float())

    def fuse_window(self, hsi: torch.Tensor, msi: torch.Tensor, window: Window) -> torch.Tensor:
        """As :meth:`fuse`; the adaptive form computes nothing on the fine grid outside the window."""
        if isinstance(self._injection, AdaptiveInjection):
            return self._injection.apply(hsi.float(), msi.float(), window)
        return super().fuse_window(hsi, msi, window)
