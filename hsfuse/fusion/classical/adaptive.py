"""The adaptive injection of :class:`hsfuse.fusion.classical.glp.Glp`: what real pairs need beyond the textbook.

1. **Noise.** The HSI is carried to the fine grid in the signal subspace of its noise-whitened bands. What lies
   below the noise stays behind; single pixels that stand out of it (rare materials) are put back in full.
2. **Misregistration, wrong PSF, different gains.** Blur and residual shift are found on the pair first
   (:mod:`hsfuse.fusion.classical.calibration`) and taken along in every interpolation. The low-pass image that is
   subtracted from the MSI is not the blurred MSI but what the HSI itself shows of the MSI bands: the spectral
   responses, corrected by a scene-wide regression. Both agree for an ideal pair; for a real one the difference moves
   the HSI's texture to where the MSI has it. The regression of the components on the MSI bands is fitted on this
   synthetic MSI too, so a shift cannot dilute it.
3. **Locality.** Its coefficients vary over the image: small windows of high-pass detail, drawn towards the
   scene-wide fit, with a ridge for the noise that fine MSI pixels have in excess of averaged ones.
4. **Noise again.** The HSI's own detail is kept only as far as it exceeds its noise within the window.

Every step is a shift-invariant neighbourhood operation on top of scene-wide statistics, so tiles with a halo
reproduce the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import NO_OFFSET, UPSAMPLE_HALO_PX, Offset, Window, inject, psf_kernel, smooth
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.classical.statistics import DETAIL_TAPS, FloatMatrix, PairStatistics, Subspace, signal_subspace
from hsfuse.fusion.classical.window_regression import WINDOW_TAPS, regress
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.mixing import mix

if TYPE_CHECKING:
    import torch

PRIOR_WEIGHT = 0.2
"""Weight of the scene-wide fit against a window of average detail."""
MAX_RIDGE = 0.03
"""Largest ridge relative to the MSI's detail; noise estimates of misaligned pairs run far above it."""
NOISE_SHARE = 0.1
"""Share of the MSI's unexplained variance that is taken for noise; the rest is misfit of the linear model."""
RESPONSE_RIDGE, BLIND_RIDGE = 0.3, 1e-3
"""Ridge of the synthetic MSI relative to the HSI's mean variance, with and without known responses to draw towards."""
ADAPTIVE_HALO_PX = UPSAMPLE_HALO_PX + WINDOW_TAPS // 2 + DETAIL_TAPS // 2


@dataclass(frozen=True)
class AdaptiveInjection:
    """What was learned from the scene, as float32 tensors on the device.

    Attributes
    ----------
    mean, noise
        Mean spectrum and noise of the HSI bands, shape (band,).
    forward, back
        Into the signal subspace (component, band) and out of it (band, component).
    synthesis, msi_mean
        MSI bands as the HSI shows them: ``synthesis @ components + msi_mean``; (msi band, component), (msi band,).
    whiten
        Decorrelates MSI details, shape (msi band, msi band).
    reliability
        How far the HSI explains each MSI band, 0 to 1; bands that it cannot explain inject nothing.
    gain
        Scene-wide coefficients of whitened details, shape (component, msi band).
    ridge
        Ridge in whitened coordinates, shape (msi band, msi band).
    misfit
        Share of each MSI band's detail that the HSI does not show.
    ratio
        HSI pixel size over MSI pixel size.
    offset_px
        How far (row, col) the HSI's pixels really lie towards larger index, HSI pixels.
    """

    mean: torch.Tensor
    noise: torch.Tensor
    forward: torch.Tensor
    back: torch.Tensor
    synthesis: torch.Tensor
    msi_mean: torch.Tensor
    whiten: torch.Tensor
    reliability: torch.Tensor
    gain: torch.Tensor
    ridge: torch.Tensor
    misfit: tuple[float, ...]
    ratio: int
    offset_px: Offset = NO_OFFSET

    @property
    def rank(self) -> int:
        """Dimension of the signal subspace."""
        return int(self.forward.shape[0])

    @classmethod
    def learn(
        cls,
        statistics: PairStatistics,
        context: FusionContext,
        *,
        max_rank: int,
        offset_px: Offset = NO_OFFSET,
        noise_left: float = 1.0,
    ) -> AdaptiveInjection:
        """Derive everything from the joint statistics of the low-resolution pair."""
        import torch

        space = signal_subspace(statistics, max_rank=max_rank)
        synthesis, unexplained = _synthesis(statistics, space, context.srf)
        bands = statistics.bands
        components = space.forward @ statistics.detail[:bands, :bands] @ space.forward.T
        guide = statistics.detail[bands:, bands:]
        power = np.maximum(np.diag(guide), 1e-9 * max(float(np.trace(guide)), 1e-12))
        # Unexplained variance is that of averaged pixels; single pixels have more noise by the averaging's factor.
        averaging = float((psf_kernel(context.psf, context.ratio) ** 2).sum()) ** 2
        ridge = noise_left * np.clip(NOISE_SHARE * unexplained / averaging, 0.0, MAX_RIDGE * power)
        ridge += 1e-7 * power.mean()
        whiten = np.linalg.inv(np.linalg.cholesky(guide + np.diag(ridge)))
        misfit = _misfit(statistics, space, synthesis)
        arrays = {
            "mean": space.mean,
            "noise": space.noise,
            "forward": space.forward,
            "back": space.back,
            "synthesis": synthesis,
            "msi_mean": statistics.msi_mean,
            "whiten": whiten,
            "reliability": np.clip(2.0 * (1.0 - misfit), 0.0, 1.0),
            "gain": (whiten @ synthesis @ components).T,
            "ridge": whiten @ np.diag(ridge) @ whiten.T,
        }
        tensors = {
            name: torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=context.device)
            for name, array in arrays.items()
        }
        return cls(
            **tensors, misfit=tuple(round(float(m), 4) for m in misfit), ratio=context.ratio, offset_px=offset_px
        )

    def apply(self, hsi: torch.Tensor, msi: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        """Fuse tiles: (n, band, row, col) and (n, msi band, row * ratio, col * ratio).

        ``window`` limits what is computed on the fine grid to some rows and columns of the coarse one.
        """
        window = window or (slice(0, hsi.shape[2]), slice(0, hsi.shape[3]))
        fine, rare = self.components(hsi, msi, window)
        return self.bands(fine, rare, window)

    def components(
        self, hsi: torch.Tensor, msi: torch.Tensor, window: Window
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Fuse tiles up to their components; see :class:`hsfuse.fusion.base.ComponentFusion`."""
        import torch

        ratio, (rows, cols) = self.ratio, window
        centred = hsi - self.mean[:, None, None]
        components = mix(self.forward, centred)
        seen = mix(self.synthesis, components)
        guide = mix(self.whiten, seen)
        coefficients, trusted = regress(
            guide - smooth(guide, DETAIL_TAPS), components - smooth(components, DETAIL_TAPS), components,
            self.ridge + PRIOR_WEIGHT * torch.eye(len(self.ridge), device=guide.device), PRIOR_WEIGHT * self.gain,
        )  # fmt: skip
        sharp = msi[..., rows.start * ratio : rows.stop * ratio, cols.start * ratio : cols.stop * ratio]
        blurred = inject(seen + self.msi_mean[:, None, None], (), None, ratio, (rows, cols), offset_px=self.offset_px)
        details = mix(self.whiten, (sharp - blurred) * self.reliability[:, None, None])
        # A component that is 1 everywhere carries the mean: no pass over the result to add it.
        fine = torch.empty(
            (hsi.shape[0], self.rank + 1, *details.shape[2:]), dtype=details.dtype, device=details.device
        )
        fine[:, self.rank :].fill_(1.0)
        inject(trusted, coefficients, details, ratio, (rows, cols), out=fine[:, : self.rank], offset_px=self.offset_px)
        return fine, self._outstanding(centred, components)

    def bands(self, components: torch.Tensor, outside: torch.Tensor | None, window: Window) -> torch.Tensor:
        """Turn components into bands and add the rare materials."""
        import torch

        out = mix(torch.cat([self.back, self.mean[:, None]], dim=1), components)
        if outside is not None:
            inject(outside, (), None, self.ratio, window, out, self.offset_px, add=True)
        return out

    def _outstanding(self, centred: torch.Tensor, components: torch.Tensor) -> torch.Tensor | None:
        """Return what lies outside the subspace where it is far above the noise, or None where nothing is known to.

        The mean square of pure noise over the (band - rank) directions left has the standard deviation
        sqrt(2 / (band - rank)); from 4 of them on a pixel counts as a rare material rather than noise.
        """
        free = centred.shape[1] - components.shape[1]
        if free <= 0:
            return None
        rest = centred - mix(self.back, components)
        power = (rest / self.noise[:, None, None]).square().sum(dim=1, keepdim=True) / free
        start = 1.0 + 4.0 * (2.0 / free) ** 0.5
        gate = ((power - start) / start).clamp(0.0, 1.0)
        return None if may_ask(gate) and not bool((gate > 0).any()) else rest * gate


def _synthesis(statistics: PairStatistics, space: Subspace, srf: FloatMatrix | None) -> tuple[FloatMatrix, FloatMatrix]:
    """Regress the MSI on the components: matrix (msi band, component) and the variance that it leaves by band.

    The spectral responses, with a gain, are the starting point where they are known; the ridge draws towards them.
    Without it, weak components would imitate a shift between the images: the synthetic MSI would follow the
    displaced MSI, and the displacement would stay in the result.
    """
    bands = statistics.bands
    covariance = statistics.covariance[:bands, :bands]
    inner = space.forward @ covariance @ space.forward.T
    known = statistics.covariance[bands:, :bands] @ space.forward.T
    start, ridge = np.zeros_like(known), np.full(len(known), BLIND_RIDGE)
    if srf is not None:
        covered = srf.sum(axis=1) > 0
        start[covered], ridge[covered] = srf[covered] @ space.back, RESPONSE_RIDGE
        power = np.maximum(np.diag(start @ inner @ start.T), 1e-12)
        start *= (np.diag(known @ start.T) / power)[:, None]
    mixing = start.copy()
    level = float(np.trace(covariance)) / bands * (space.forward @ space.forward.T)
    for row in range(len(known)):
        # The components' noise has unit variance; the rest of the ridge is in reflectance.
        loading = np.eye(space.rank) + ridge[row] * level
        mixing[row] += np.linalg.solve(inner + loading, known[row] - inner @ start[row])
    left = statistics.covariance[bands:, bands:] - 2.0 * known @ mixing.T + mixing @ inner @ mixing.T
    return mixing, np.maximum(np.diag(left), 0.0)


def _misfit(statistics: PairStatistics, space: Subspace, synthesis: FloatMatrix) -> FloatMatrix:
    """Share of each MSI band's detail that the synthetic MSI misses, 0 to 1, shape (msi band,)."""
    bands = statistics.bands
    guide = statistics.detail[bands:, bands:]
    cross = statistics.detail[bands:, :bands] @ space.forward.T
    components = space.forward @ statistics.detail[:bands, :bands] @ space.forward.T
    left = np.diag(guide - 2.0 * cross @ synthesis.T + synthesis @ components @ synthesis.T)
    power = np.maximum(np.diag(guide), 1e-9 * max(float(np.trace(guide)), 1e-12))
    return np.asarray(np.clip(left / power, 0.0, 1.0), dtype=np.float64)
