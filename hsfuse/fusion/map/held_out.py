"""What a refinement gains at the scene's own resolution: MSI bands that it did not get are predicted and compared.

A validation at reduced resolution knows nothing of what makes the HSI differ from its assumed response: a blur that is
no Gaussian, smile, displacement finer than the co-registration follows. Here all of it is in the data: the pair is
fused without one MSI band, with and without the refinement, and the result, seen by that band, is compared with what
was measured there. The band's own noise is independent of both results, so it cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import upsample_array
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.adaptive import AdaptiveInjection
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix, PairStatistics, gather
from hsfuse.fusion.map.prior import ErrorPrior
from hsfuse.fusion.map.refinement import NOISE_LEFT, Refinement, RefinementKind
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import side_by_side

if TYPE_CHECKING:
    import torch

_MAX_WINDOWS, _WINDOW_PX = 6, 64
_MIN_VALID, _RIM_PX = 0.6, 6
"""Share of a window that must be valid, and HSI pixels at its rim that do not count."""
_MAX_STRIPS = 3
"""Strips that the injection without a band learns from."""
_LEAST_LEFT = 0.02
"""What remains of a squared error, at least, once the band's noise is taken off: noise estimates may be too large."""


@dataclass(frozen=True)
class _Window:
    """A part of the scene: HSI (band, row, col), MSI (msi band, row, col), and fine pixels that are compared."""

    hsi: NDArray[np.float32]
    msi: NDArray[np.float32]
    counted: NDArray[np.bool_]


class HeldOutBands:
    """Fusions of parts of a scene without one MSI band.

    Parameters
    ----------
    strips
        The scene at low resolution with its fine MSI, calibrated as ``model`` is.
    context
        Facts about the pair.
    model, prior, power
        The pair, how wrong a method is on it, and the covariance of the HSI's components.
    """

    def __init__(
        self,
        strips: Sequence[LowResolutionStrip],
        context: FusionContext,
        model: SceneModel,
        prior: ErrorPrior,
        power: FloatMatrix,
    ) -> None:
        self._context, self._model, self._prior, self._power = context, model, prior, power
        bands = len(model.synthesis.mean)
        self._windows = _windows(strips, model.ratio) if bands > 1 else []
        some = strips[:: -(-len(strips) // _MAX_STRIPS)] if strips else strips
        self._statistics = gather(some) if self._windows else None
        self._drafts: dict[tuple[int, RefinementKind], list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._windows)

    def gain(self, kind: RefinementKind, hsi_error: FloatMatrix) -> float:
        """Gain of a refinement over what it starts from, dB, mean over the MSI bands."""
        bands = range(len(self._model.guide_noise))
        gains = side_by_side(lambda band: self._band_gain(band, kind, hsi_error), bands, self._context.threads_here)
        return float(np.mean(list(gains)))

    def _band_gain(self, band: int, kind: RefinementKind, hsi_error: FloatMatrix) -> float:
        import torch

        model = _without(self._model, band)
        step = Refinement.make(
            model, self._prior, self._power, kind=kind, hsi_error=hsi_error, device=self._context.device
        )
        sums = np.zeros(2)
        plain = self._drafted(band, step, "map")
        # The whole refinement starts from what cleaning by non-local Bayes makes, too.
        start = plain if kind == "map" else self._drafted(band, step, "clean" if kind == "nonlocal" else kind)
        for window, (_, before), (guide, draft) in zip(self._windows, plain, start, strict=True):
            low = torch.from_numpy(window.hsi)[None].to(draft.device)
            after = step.apply(low, guide, draft.clone())
            sums += [self._miss(band, window, result[0]) for result in (before, after)]
        noise = float(self._model.guide_noise[band] ** 2)
        left = np.maximum(sums / len(self._windows) - noise, _LEAST_LEFT * sums / len(self._windows))
        return float(10.0 * np.log10(left[0] / max(float(left[1]), 1e-30)))

    def _miss(self, band: int, window: _Window, result: torch.Tensor) -> float:
        """Mean squared difference of what a result shows of a band and the band, without their mean difference."""
        import torch

        model = self._model
        seen = model.synthesis.matrix[band] @ model.space.forward
        weight = torch.as_tensor(seen, dtype=torch.float32, device=result.device)
        shown = torch.tensordot(weight, result, dims=1).cpu().numpy()
        error = (shown - window.msi[band])[window.counted]
        return float(error.astype(np.float64).var())

    def _drafted(self, band: int, step: Refinement, kind: RefinementKind) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Guides without a band and what an adaptive injection makes of them."""
        import torch

        if (band, kind) not in self._drafts:
            context, keep = self._context, [k for k in range(len(self._model.guide_noise)) if k != band]
            part = replace(
                context, psf=self._model.psf, srf=None if context.srf is None else context.srf[keep]
            )  # fmt: skip
            injection = AdaptiveInjection.learn(
                _statistics_of(self._statistics, keep), part, max_rank=self._model.space.rank,
                offset_px=self._model.offset_px, noise_left=NOISE_LEFT[kind],
            )  # fmt: skip
            made = []
            for window in self._windows:
                low, guide = (
                    torch.from_numpy(np.ascontiguousarray(image))[None].to(context.device)
                    for image in (window.hsi, window.msi[keep])
                )
                guide = guide if kind == "map" else step.clean(guide)
                made.append((guide, injection.apply(low, guide)))
            self._drafts[band, kind] = made
        return self._drafts[band, kind]


def _windows(strips: Sequence[LowResolutionStrip], ratio: int) -> list[_Window]:
    """Valid parts of the strips, spread evenly."""
    found: list[_Window] = []
    for strip in strips:
        if strip.fine is None:
            continue
        rows, width = strip.valid.shape
        starts = list(range(0, max(width - _WINDOW_PX // 2, 1), _WINDOW_PX))
        for start, stop in zip(starts, [*starts[1:], width], strict=True):
            if float(strip.valid[:, start:stop].mean()) < _MIN_VALID:
                continue
            top = strip.fine_above * ratio
            fine = strip.fine[:, top : top + rows * ratio, start * ratio : stop * ratio]
            usable = np.isfinite(fine).all(axis=0)
            msi = np.where(usable, fine, upsample_array(strip.msi[:, :, start:stop], ratio)).astype(np.float32)
            margin = [min(_RIM_PX, size // 4) * ratio for size in (rows, stop - start)]
            counted = np.zeros_like(usable)
            inner = tuple(slice(edge, size - edge) for edge, size in zip(margin, usable.shape, strict=True))
            counted[inner] = binary_erosion(usable, np.ones((3, 3), bool), iterations=ratio, border_value=1)[inner]
            if counted.sum() >= MIN_PIXELS:
                found.append(_Window(np.ascontiguousarray(strip.hsi[:, :, start:stop]), msi, counted))
    if len(found) > _MAX_WINDOWS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _MAX_WINDOWS).round().astype(int)]
    return found


def _without(model: SceneModel, band: int) -> SceneModel:
    guide = model.synthesis
    matrix, mean, uncertainty, left = (
        np.delete(array, band, axis=0)
        for array in (guide.matrix, guide.mean, guide.uncertainty, guide.residual_variance)
    )
    synthesis = replace(guide, matrix=matrix, mean=mean, uncertainty=uncertainty, residual_variance=left)
    return replace(model, synthesis=synthesis, guide_noise=np.delete(model.guide_noise, band))


def _statistics_of(statistics: PairStatistics | None, keep: Sequence[int]) -> PairStatistics:
    if statistics is None:
        raise RuntimeError("statistics of no windows")
    index = [*range(statistics.bands), *(statistics.bands + k for k in keep)]
    square = np.ix_(index, index)
    return replace(
        statistics, mean=statistics.mean[index], covariance=statistics.covariance[square],
        detail=statistics.detail[square],
    )  # fmt: skip
