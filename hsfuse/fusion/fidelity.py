"""Fidelity guards: options that tie any method's result to the measurements.

* **Back-projection** adds what the result, degraded to the HSI's grid, misses of the HSI (Wald's consistency).
* **SRF consistency** adds what the result, seen through the MSI's responses, misses of the MSI: the smallest
  spectral change, weighted by the bands' variability, that brings it there.
* **Clipping** keeps reflectance physical.

A guarded method is a method again: it fits, fuses and describes itself, with the halo that the guards need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import MAX_FWHM_PX, UPSAMPLE_HALO_PX, Psf, apply_srf, lowpass_decimate, upsample
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.diagnostics import MethodDiagnostics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FidelityOptions:
    """Which guards are on.

    Attributes
    ----------
    back_projection
        Steps of back-projection; 0: off.
    back_projection_weight
        Share of the difference that a step adds.
    srf_weight
        Share of the difference to the MSI that is added; 0: off.
    clip
        Lowest and highest reflectance; None: off.
    """

    back_projection: int = 0
    back_projection_weight: float = 1.0
    srf_weight: float = 0.0
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.back_projection <= 10:
            raise UsageError(f"{self.back_projection} steps of back-projection are not plausible (0 to 10).")
        if not (0.0 < self.back_projection_weight <= 1.0 and 0.0 <= self.srf_weight <= 1.0):
            raise UsageError("The weights of the fidelity guards lie between 0 and 1.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UsageError("The reflectance range of the clipping is empty.")

    @property
    def active(self) -> bool:
        """Whether any guard is on."""
        return self.back_projection > 0 or self.srf_weight > 0 or self.clip is not None


def back_project(
    fused: torch.Tensor, hsi: torch.Tensor, ratio: int, psf: Psf, *, steps: int = 1, weight: float = 1.0
) -> torch.Tensor:
    """Add to (n, band, row * ratio, col * ratio) what it misses of the HSI (n, band, row, col).

    Each pixel of the result depends on HSI pixels up to ``steps * (2 + psf.reach_px(ratio))`` away.

    References
    ----------
    M. Irani, S. Peleg, Improving resolution by image registration, CVGIP 53, 1991.
    """
    for _ in range(steps):
        missing = hsi - lowpass_decimate(fused, ratio, psf)
        fused = fused + weight * upsample(missing, ratio)
    return fused


def srf_correction(srf: NDArray[np.float64], band_power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spectrum to add per unit of difference in each MSI band.

    The smallest correction in the metric of the bands' variability, ``S R' (R S R')^-1`` with S the diagonal of
    ``band_power``; MSI bands that the HSI does not cover add nothing.

    Parameters
    ----------
    srf
        Shape (msi band, band).
    band_power
        Variance of each band, shape (band,).

    Returns
    -------
    numpy.ndarray
        Shape (band, msi band).
    """
    covered = np.flatnonzero(srf.sum(axis=1) > 0)
    correction = np.zeros((srf.shape[1], srf.shape[0]))
    if covered.size:
        response = srf[covered]
        power = np.maximum(band_power, 1e-9 * max(float(band_power.max(initial=0.0)), 1e-12))
        spread = power[:, None] * response.T
        gram = response @ spread
        gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
        correction[:, covered] = np.linalg.solve(gram, spread.T).T
    return correction


class GuardedMethod(FusionMethod):
    """A method with fidelity guards behind it.

    Parameters
    ----------
    method
        What makes the result.
    options
        Which guards are on.
    ratio, psf
        Those of the scene, when they are known before the fit: they decide how far the guards reach. Until then the
        reach is that of the widest PSF.

    Notes
    -----
    SRF consistency allows for a gain and an offset of each MSI band, found on the low-resolution pair: sensors that
    differ in calibration must not pull the spectra to one side.
    """

    def __init__(
        self, method: FusionMethod, options: FidelityOptions, *, ratio: int = 2, psf: Psf | None = None
    ) -> None:
        self._method, self._options = method, options
        self._ratio, self._psf = ratio, psf or Psf(MAX_FWHM_PX)
        self._fitted = False
        self._srf: NDArray[np.float64] | None = None
        self._correction: torch.Tensor | None = None
        self._calibration: torch.Tensor | None = None

    @property
    def inner(self) -> FusionMethod:
        """The method without its guards."""
        return self._method

    def around(self, method: FusionMethod) -> GuardedMethod:
        """Return the same guards behind another method, not yet fitted."""
        # What lies between the guards and the method stays there.
        between = getattr(self._method, "around", None)
        inner = method if between is None else between(method)
        return GuardedMethod(inner, self._options, ratio=self._ratio, psf=self._psf)

    @property
    def spec(self) -> ModelSpec:
        """The method's own description, with the halo that the guards add."""
        inner = self._method.spec
        reach = self._psf.reach_px(self._ratio)
        more = 800 if self._options.active else 0
        on_host = inner.host_bytes_per_pixel
        return replace(
            inner,
            halo_px=inner.halo_px + self._options.back_projection * (UPSAMPLE_HALO_PX + reach),
            bytes_per_pixel=inner.bytes_per_pixel + more,
            host_bytes_per_pixel=None if on_host is None else on_host + more,
        )

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """Those of the method."""
        return self._method.diagnostics

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the method, and calibrate the MSI against the HSI where SRF consistency is on.

        Raises
        ------
        UsageError
            SRF consistency is on but the MSI's responses are unknown.
        """
        self._method.fit(context, strips)
        self._ratio, self._psf, self._fitted = context.ratio, context.psf, True
        if self._options.srf_weight > 0:
            if context.srf is None:
                raise UsageError(
                    "SRF consistency needs the spectral responses of the MSI.",
                    hint="Switch it off, or give an MSI with known responses.",
                )
            self._learn_srf(context, context.srf, strips)

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse, then apply the guards: SRF, back-projection, clipping."""
        if not self._fitted:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        fused = self._method.fuse(hsi, msi)
        o = self._options
        if self._correction is not None and self._calibration is not None and self._srf is not None:
            import torch

            gain, offset = self._calibration[0], self._calibration[1]
            missing = msi.float() * gain[:, None, None] + offset[:, None, None] - apply_srf(fused, self._srf)
            added = torch.matmul(self._correction, missing.flatten(2)).reshape(fused.shape)
            fused = fused + o.srf_weight * added
        if o.back_projection:
            fused = back_project(
                fused, hsi.float(), self._ratio, self._psf, steps=o.back_projection, weight=o.back_projection_weight
            )
        return fused if o.clip is None else fused.clamp(*o.clip)

    def _learn_srf(
        self, context: FusionContext, srf: NDArray[np.float64], strips: Iterable[LowResolutionStrip]
    ) -> None:
        import torch

        count = 0
        total = np.zeros((2, srf.shape[1]))
        sums = np.zeros((5, srf.shape[0]))
        for strip in strips:
            hsi, msi = strip.hsi[:, strip.valid].astype(np.float64), strip.msi[:, strip.valid].astype(np.float64)
            seen = srf @ hsi
            count += hsi.shape[1]
            total += hsi.sum(axis=1), (hsi**2).sum(axis=1)
            sums += msi.sum(axis=1), seen.sum(axis=1), (msi**2).sum(axis=1), (seen**2).sum(axis=1), (msi * seen).sum(1)
        count = max(count, 1)
        mean, square = total / count
        m, s, mm, ss, ms = sums / count
        variance, cross = np.maximum(mm - m**2, 1e-12), ms - m * s
        # The geometric-mean slope: noise in either image biases a plain regression towards 0.
        gain = np.where(cross > 0, np.sqrt(np.maximum(ss - s**2, 0.0) / variance), 0.0)
        correction = srf_correction(srf, square - mean**2)
        self._srf = srf
        self._correction = torch.as_tensor(correction, dtype=torch.float32, device=context.device)
        calibration = np.stack([gain, s - gain * m])
        self._calibration = torch.as_tensor(calibration, dtype=torch.float32, device=context.device)


def guarded(method: FusionMethod, options: FidelityOptions, *, ratio: int = 2, psf: Psf | None = None) -> FusionMethod:
    """Put guards behind a method; returns the method itself when all are off.

    ``ratio`` and ``psf`` as in :class:`GuardedMethod`.
    """
    return GuardedMethod(method, options, ratio=ratio, psf=psf) if options.active else method
