"""What a refinement gains at the scene's own resolution: MSI bands that it did not get are predicted and compared.

A validation at reduced resolution knows nothing of what makes the HSI differ from its assumed response: a blur that is
no Gaussian, smile, displacement finer than the co-registration follows. Here all of it is in the data: the pair is
fused without one MSI band, with and without the refinement, and the result, seen by that band, is compared with what
was measured there. The band's own noise is independent of both results, so it cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import upsample_array
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.adaptive import AdaptiveInjection
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix, PairStatistics, gather
from hsfuse.fusion.map.posterior import Misfit
from hsfuse.fusion.map.prior import ErrorPrior
from hsfuse.fusion.map.refinement import NOISE_LEFT, Refinement, RefinementKind
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.masks import expand
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


@dataclass(frozen=True)
class _Start:
    """What a refinement starts from in a window without a band.

    Attributes
    ----------
    low, guide, state
        HSI, guide and components of the draft, each of shape (1, ..., row, col).
    misfit
        What the draft leaves unexplained, whatever an estimate trusts; None where more than one estimate follows.
    shown
        The held-out band as the draft shows it, shape (1, 1, row, col).
    """

    low: torch.Tensor
    guide: torch.Tensor
    state: torch.Tensor
    misfit: Misfit | None
    shown: torch.Tensor


class HeldOutBands:
    """Fusions of parts of a scene without one MSI band.

    Parameters
    ----------
    strips
        The scene at low resolution with its fine MSI, calibrated as ``model`` is.
    context
        Facts about the pair.
    model
        The pair.
    """

    def __init__(self, strips: Sequence[LowResolutionStrip], context: FusionContext, model: SceneModel) -> None:
        self._context, self._model = context, model
        self._bands = range(len(model.synthesis.mean))
        self._windows = _windows(strips, model.ratio, context.threads) if len(self._bands) > 1 else []
        some = strips[:: -(-len(strips) // _MAX_STRIPS)] if strips else strips
        self._statistics = gather(some) if self._windows else None
        self._before: list[float] = []

    def __bool__(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._windows)

    def gains(
        self, kind: RefinementKind, hsi_errors: Sequence[FloatMatrix], prior: ErrorPrior, power: FloatMatrix
    ) -> list[float]:
        """Gains of refinements over what they start from, dB, mean over the MSI bands.

        Parameters
        ----------
        kind
            What the refinements do.
        hsi_errors
            Covariance of what the HSI's response leaves unexplained, of each of them.
        prior, power
            How wrong a method is on the pair, and the covariance of the HSI's components.
        """
        threads = self._context.threads_here

        def step_of(piece: tuple[FloatMatrix, int]) -> Refinement:
            hsi_error, band = piece
            return Refinement.make(
                _without(self._model, band), prior, power, kind=kind, hsi_error=hsi_error, device=self._context.device
            )  # fmt: skip

        steps = list(side_by_side(step_of, product(hsi_errors, self._bands), threads))
        some = steps[: len(self._bands)]
        # The whole refinement starts from what cleaning by non-local Bayes makes, too.
        starts = self._starts("clean" if kind == "nonlocal" else kind, some)
        if not self._before:
            plain = starts if kind == "map" else self._starts("map", some)
            self._before = self._sums([self._miss(band, window, start.shown) for band, window, start in plain])

        def missed(piece: tuple[int, tuple[int, _Window, _Start]]) -> float:
            number, (band, window, start) = piece
            step = steps[number * len(self._bands) + band]
            into = self._shown(band, start.state.device) @ step.back
            if start.misfit is None or step.nonlocal_step is not None:
                more = mix(into, step.change(start.low, start.guide, start.state))
            else:
                # All that is asked for is what the change of all components shows of the band.
                more = step.first.correct(start.misfit, into)
            return self._miss(band, window, start.shown + more)

        found = list(side_by_side(missed, product(range(len(hsi_errors)), starts), threads))
        each = len(starts)
        return [self._gain(self._sums(found[first : first + each])) for first in range(0, len(found), each)]

    def _gain(self, after: Sequence[float]) -> float:
        """Mean over the bands, dB, from the mean squares of what is missed."""
        gains = []
        for band, sums in enumerate(zip(self._before, after, strict=True)):
            mean = np.array(sums) / len(self._windows)
            left = np.maximum(mean - float(self._model.guide_noise[band] ** 2), _LEAST_LEFT * mean)
            gains.append(10.0 * np.log10(left[0] / max(float(left[1]), 1e-30)))
        return float(np.mean(gains))

    def _sums(self, found: Sequence[float]) -> list[float]:
        """Sums over the windows of what was found band by band, window by window."""
        count = len(self._windows)
        return [float(sum(found[band * count : (band + 1) * count])) for band in self._bands]

    def _shown(self, band: int, device: torch.device) -> torch.Tensor:
        """Return what turns HSI bands into what they show of a band, without its mean, shape (1, band)."""
        import torch

        seen = self._model.synthesis.matrix[band] @ self._model.space.forward
        return torch.as_tensor(seen, dtype=torch.float32, device=device)[None]

    def _miss(self, band: int, window: _Window, shown: torch.Tensor) -> float:
        """Mean squared difference of what is shown of a band and the band, without their mean difference."""
        error = (shown[0, 0].cpu().numpy() - window.msi[band])[window.counted]
        return float(error.astype(np.float64).var())

    def _starts(self, kind: RefinementKind, steps: Sequence[Refinement]) -> list[tuple[int, _Window, _Start]]:
        """Return what refinements start from, band by band and window by window; ``steps`` are those of the bands."""
        injections = list(side_by_side(lambda band: self._injection(band, kind), self._bands, self._context.threads))

        def start(piece: tuple[int, _Window]) -> tuple[int, _Window, _Start]:
            band, window = piece
            return band, window, self._start(band, window, injections[band], steps[band], cleaned=kind != "map")

        return list(side_by_side(start, product(self._bands, self._windows), self._context.threads_here))

    def _injection(self, band: int, kind: RefinementKind) -> AdaptiveInjection:
        """Return the adaptive injection of a guide without a band."""
        context, keep = self._context, self._others(band)
        part = replace(context, psf=self._model.psf, srf=None if context.srf is None else context.srf[keep])
        return AdaptiveInjection.learn(
            _statistics_of(self._statistics, keep), part, max_rank=self._model.space.rank,
            offset_px=self._model.offset_px, noise_left=NOISE_LEFT[kind],
        )  # fmt: skip

    def _others(self, band: int) -> list[int]:
        return [k for k in self._bands if k != band]

    def _start(
        self, band: int, window: _Window, injection: AdaptiveInjection, step: Refinement, *, cleaned: bool
    ) -> _Start:
        import torch

        low, guide = (
            torch.from_numpy(np.ascontiguousarray(image))[None].to(self._context.device)
            for image in (window.hsi, window.msi[self._others(band)])
        )
        guide = step.clean(guide) if cleaned else guide
        draft = injection.apply(low, guide)
        constant = (step.forward @ step.mean)[:, None, None]
        state = mix(step.forward, draft) - constant
        misfit = None
        if step.nonlocal_step is None:
            misfit = step.first.misfit(mix(step.forward, low) - constant, guide, state)
        return _Start(low, guide, state, misfit, mix(self._shown(band, draft.device), draft))


def _windows(strips: Sequence[LowResolutionStrip], ratio: int, threads: int) -> list[_Window]:
    """Valid parts of the strips, spread evenly."""
    pieces: list[tuple[LowResolutionStrip, slice]] = []
    for strip in strips:
        width = strip.valid.shape[1]
        starts = list(range(0, max(width - _WINDOW_PX // 2, 1), _WINDOW_PX))
        pieces += [(strip, slice(*edges)) for edges in zip(starts, [*starts[1:], width], strict=True)]
    looked_at = side_by_side(lambda piece: _window(*piece, ratio), pieces, threads)
    found = [window for window in looked_at if window is not None]
    if len(found) > _MAX_WINDOWS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _MAX_WINDOWS).round().astype(int)]
    return found


def _window(strip: LowResolutionStrip, cols: slice, ratio: int) -> _Window | None:
    """Return some columns of a strip; None where too little is valid."""
    below = strip.below(ratio)
    if below is None or float(strip.valid[:, cols].mean()) < _MIN_VALID:
        return None
    rows, fine = strip.valid.shape[0], below[:, :, cols.start * ratio : cols.stop * ratio]
    usable = np.isfinite(fine).all(axis=0)
    margin = [min(_RIM_PX, size // 4) * ratio for size in (rows, cols.stop - cols.start)]
    counted = np.zeros_like(usable)
    inner = tuple(slice(edge, size - edge) for edge, size in zip(margin, usable.shape, strict=True))
    square = np.ones((3, 3), bool)
    # What stands in for an HSI pixel without a measurement, and what is blurred with it, is no error of a fusion.
    measured = expand(binary_erosion(strip.valid[:, cols], square, border_value=1), ratio)
    counted[inner] = (measured & binary_erosion(usable, square, iterations=ratio, border_value=1))[inner]
    if counted.sum() < MIN_PIXELS:
        return None
    msi = np.where(usable, fine, upsample_array(strip.msi[:, :, cols], ratio)).astype(np.float32)
    return _Window(np.ascontiguousarray(strip.hsi[:, :, cols]), msi, counted)


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
