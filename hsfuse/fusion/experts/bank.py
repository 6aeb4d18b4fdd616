"""All experts of a scene: fitted once at low resolution, evaluated tile by tile.

Every expert is what to add to the maximum a posteriori estimate, in canonical components, and linear in them: turn the
spectral basis and all experts turn along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hsfuse.degrade import Offset, Window
from hsfuse.degrade.windows import finer
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.experts.canonical import CanonicalComponents
from hsfuse.fusion.experts.guide import GUIDE_EXPERTS, GuideDetail, Upsampler
from hsfuse.fusion.experts.reduced_error import REDUCED_ERROR_EXPERTS, ReducedError, ReducedErrorWindow
from hsfuse.fusion.map.posterior import MapEstimator
from hsfuse.fusion.map.refinement import LOOSE_WHITENING, WHITENING, NonlocalStep, denoise_components, reference_step
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import threads_for, together

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16
"""HSI pixels of a tile for which a processor asks experts at a time."""
PRIORS, GUIDES = (0.25, 4.0, 16.0), (0.33, 3.0, 10.0)
"""Other settings of the estimate: factors on the prior and on the guide's error variance."""
_LOOSE_PRIOR, _LOOSE_GUIDE = 4.0, 2.0
_UNIT = (LOOSE_WHITENING / WHITENING) ** 0.5
"""Of the error that non-local Bayes removes, in canonical components."""

EXPERTS = (
    "fine detail", "coarse detail", "local regression, narrow", "local regression, wide", "non-local",
    "non-local, loose", "multiplied detail", *GUIDE_EXPERTS, "guide's noise", *REDUCED_ERROR_EXPERTS,
    *(f"prior x {factor:g}" for factor in PRIORS), *(f"guide error x {factor:g}" for factor in GUIDES),
    "guide as measured",
)  # fmt: skip
"""Names in the order of the experts' axis."""
BEST_ONLY = (
    "non-local", "local regression, wide", "class-wise detail", "guide's noise", "reduced-resolution error, fourier",
    "prior x 4", "prior x 16",
)  # fmt: skip
"""Those that are asked with ``--quality best`` alone; else they say nothing (zero). Non-local Bayes takes most of the
time: of the loose estimate ``standard`` asks its first pass alone. The others add nothing that those left do not say:
on seven validation cubes ``standard`` has 0.04 dB more without them (35 dB and field; the same without noise), with
weights that were trained on all."""


@dataclass(frozen=True)
class TileState:
    """A tile after the maximum a posteriori estimate; components are those of the signal subspace.

    Attributes
    ----------
    seen
        The HSI's, shape (n, component, row, col).
    guide, raw_guide
        As used and as measured, shape (n, msi band, row * ratio, col * ratio).
    start, estimate
        Of the base estimate and of the estimate, shape (n, component, row * ratio, col * ratio).
    """

    seen: Tensor
    guide: Tensor
    raw_guide: Tensor
    start: Tensor
    estimate: Tensor


@dataclass(frozen=True)
class ExpertBank:
    """What the experts learned from a scene.

    Attributes
    ----------
    canonical
        Their coordinates.
    guide
        Regressions on the guide.
    reduced_error
        The estimate's error; None where it could not be learned.
    settings
        Estimates with other priors and other trust in the guide, in the order of :data:`PRIORS` and :data:`GUIDES`.
    plain, loose, loose_step
        The estimate itself, and the one whose result non-local Bayes cleans best, in whitened components of its own.
    noise_pull
        From the guide's noise to components, shape (component, msi band).
    model
        The pair.
    aligned
        Leave the residual shift out: the pair was made without one.
    """

    canonical: CanonicalComponents
    guide: GuideDetail
    reduced_error: ReducedError | None
    settings: tuple[MapEstimator, ...]
    plain: MapEstimator
    loose: MapEstimator
    loose_step: NonlocalStep
    noise_pull: Tensor
    model: SceneModel
    aligned: bool = False

    @classmethod
    def fit(
        cls, strips: Sequence[LowResolutionStrip], model: SceneModel, prior: FloatMatrix, variance: FloatMatrix,
        power: FloatMatrix, *, reduced_windows: Sequence[ReducedErrorWindow] = (),
        canonical: CanonicalComponents | None = None, aligned: bool = False, hsi_error: FloatMatrix | None = None,
        seed: int = 0, device: str = "cpu",
    ) -> ExpertBank:  # fmt: skip
        """Fit all experts.

        Parameters
        ----------
        strips, model
            The scene at low resolution and what is known about it.
        prior, variance
            Covariance of the base estimate's error (component, component) and error variance of the guide
            (msi band,) of the estimate.
        power
            Covariance of the HSI's components, shape (component, component).
        reduced_windows
            Degraded windows with the estimate's error.
        canonical
            Coordinates; found here when None.
        aligned
            See the class.
        hsi_error
            As in :meth:`~hsfuse.fusion.map.posterior.MapEstimator.make`.
        seed
            Of random features.
        device
            Torch device.
        """

        def estimator(on_prior: float, on_guide: float) -> MapEstimator:
            return MapEstimator.make(
                model, on_prior * prior, on_guide * variance, hsi_error=hsi_error, device=device, aligned=aligned
            )  # fmt: skip

        plain = estimator(1.0, 1.0)
        canonical = canonical or CanonicalComponents.make(model, plain, power)
        settings = [estimator(factor, 1.0) for factor in PRIORS] + [estimator(1.0, factor) for factor in GUIDES]
        loose = estimator(_LOOSE_PRIOR, _LOOSE_GUIDE)
        pull = canonical.into @ (plain.leave / plain.precision) @ plain.pull
        detail, reduced_error = together(
            lambda: GuideDetail.fit(strips, model, variance, canonical, seed),
            lambda: ReducedError.fit(reduced_windows, model.ratio, seed=seed), threads=threads_for(4) // 2,
        )  # fmt: skip
        return cls(
            canonical, detail, reduced_error, tuple(settings), plain,
            loose, NonlocalStep.make(model, loose, power, LOOSE_WHITENING), pull, model, aligned,
        )  # fmt: skip

    @property
    def offset_px(self) -> Offset:
        """How far the HSI's pixels really lie towards larger index, HSI pixels."""
        return (0.0, 0.0) if self.aligned else self.model.offset_px

    @cached_property
    def up(self) -> Upsampler:
        """Interpolates to the fine grid."""
        return Upsampler(self.model.ratio, self.offset_px)

    def asked(self, *, best: bool = True) -> list[int]:
        """Which of :data:`EXPERTS` are asked, ascending; the others say nothing (zero)."""
        silent = () if best else BEST_ONLY
        if self.reduced_error is None:
            silent = (*silent, *REDUCED_ERROR_EXPERTS)
        return [index for index, name in enumerate(EXPERTS) if name not in silent]

    def cleaned(self, tile: TileState, x: Tensor, *, best: bool, shown: Window | None = None) -> tuple[Tensor, ...]:
        """Return what the non-local experts that are asked would add to canonical components (n, component, row, col).

        Elsewhere than in a part of the tile, ``shown`` in HSI pixels, that is nothing.
        """
        wanted: NDArray[np.bool_] | None = None
        if shown is not None:
            shown = finer(shown, self.model.ratio)
            wanted = np.zeros(x.shape[2:], bool)
            wanted[shown] = True
        loose = tile.start + self.loose.solve(tile.seen, tile.guide, tile.start)
        said = mix(self.canonical.into, loose).sub_(x)
        correction = self.loose_step.correction(loose, reference_step(self.model.ratio), quick=not best, wanted=wanted)
        said += mix(self.canonical.into @ self.loose_step.out, correction)
        found = (self.denoise(x, wanted) - x, said) if best else (said,)
        return found if shown is None else tuple(_nothing_beside(each, shown) for each in found)

    def denoise(self, x: Tensor, wanted: NDArray[np.bool_] | None = None) -> Tensor:
        """Clean canonical components (n, component, row, col) by non-local Bayes, see :func:`denoise_components`."""
        step = reference_step(self.model.ratio)
        return torch.stack([denoise_components(image / _UNIT, step, wanted=wanted) * _UNIT for image in x])


def _nothing_beside(x: Tensor, part: Window) -> Tensor:
    kept = torch.zeros_like(x)
    kept[..., *part] = x[..., *part]
    return kept
