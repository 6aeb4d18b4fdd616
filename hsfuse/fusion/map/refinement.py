"""The refinement of a tile: maximum a posteriori, and where wanted non-local Bayes on its components and once more.

A cleaned guide comes first where wanted: its noise would go into every band. After the first estimate the components
are whitened by a share of the posterior covariance and turned so that the strongest come first; those are denoised and
the estimate is made again with a tighter prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.map import local_wiener, nonlocal_bayes
from hsfuse.fusion.map.blur import decimation_matrix
from hsfuse.fusion.map.posterior import HALO_PX, MapEstimator
from hsfuse.fusion.map.prior import ErrorPrior
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel

if TYPE_CHECKING:
    import torch

RefinementKind = Literal["map", "filter", "clean", "nonlocal"]
"""``map``: the estimate in closed form; ``filter``: on a guide that a local Wiener filter cleaned; ``clean``: on one
cleaned by non-local Bayes; ``nonlocal``: that, the same for the components, and a second estimate."""
GUIDE_NOISE: dict[RefinementKind, float] = {"map": 3.0, "filter": 2.0, "clean": 0.6, "nonlocal": 0.6}
"""Variance of the guide's noise in the estimate relative to what was measured: a raw guide's noise is already in the
base estimate, with the same sign."""
NOISE_LEFT: dict[RefinementKind, float] = {"map": 1.0, "filter": 0.75, "clean": 0.6, "nonlocal": 0.6}
"""Share of the noise variance that cleaning leaves in the guide."""
_COMPONENTS = 10
_AGAIN = 0.4
WHITENING, LOOSE_WHITENING = 0.7, 1.0
"""Shares of the posterior covariance that count as noise: of the estimate itself, and of the looser one that non-local
Bayes cleans best. Whitened by another estimate's covariance, half of what it could remove would stay."""
_FIRST_PRIOR, _FIRST_GUIDE = 4.0, 2.0
_RESULT_NOISE = 0.1**0.5
"""Standard deviation of the noise that a gate leaves, in canonical components, of which the estimate's error is 1. On
whole cubes of the training and validation sites results keep 0.1 to 0.5 (two leading components: 1 to 2) as measured
by other draws of the noise; taking out all of it takes detail along."""
_REFERENCE_PX = 96
_LEAST_RELATIVE_NOISE = 1e-4
"""Of a guide that is cleaned, relative to its brightest band's mean."""


@dataclass(frozen=True)
class NonlocalStep:
    """Denoising of the components, worked out for a scene.

    Attributes
    ----------
    into, out
        Components to leading whitened ones and back, shapes (leading, component) and (component, leading).
    """

    into: torch.Tensor
    out: torch.Tensor

    @classmethod
    def make(
        cls, model: SceneModel, first: MapEstimator, power: FloatMatrix, whitening: float = WHITENING
    ) -> NonlocalStep:
        """Prepare the step.

        Parameters
        ----------
        model
            The pair.
        first
            What made the components that are denoised.
        power
            Covariance of the HSI's components, shape (component, component).
        whitening
            Share of the posterior covariance of ``first`` that counts as noise.
        """
        import torch

        leave, precision = first.leave.double().cpu().numpy(), first.precision.double().cpu().numpy()
        axis = decimation_matrix(_REFERENCE_PX, model.ratio, model.psf)
        values = np.zeros(_REFERENCE_PX)
        values[: len(axis)] = np.maximum(np.linalg.eigvalsh(axis @ axis.T), 0.0)
        response = np.outer(values, values)
        posterior = np.array([(1.0 / (response + a)).mean() for a in precision])
        lower = np.linalg.cholesky(whitening * (leave * posterior) @ leave.T)
        white = np.linalg.inv(lower)
        _, vectors = np.linalg.eigh(white @ power @ white.T)
        leading = vectors[:, ::-1][:, :_COMPONENTS]
        device = first.leave.device
        into, out = (
            torch.as_tensor(np.ascontiguousarray(matrix), dtype=torch.float32, device=device)
            for matrix in (leading.T @ white, lower @ leading)
        )
        return cls(into, out)

    def apply(self, state: torch.Tensor, step: int) -> torch.Tensor:
        """Return (n, component, row, col) with the leading components denoised."""
        return state + mix(self.out, self.correction(state, step))

    def correction(
        self, state: torch.Tensor, step: int, *, quick: bool = False, wanted: NDArray[np.bool_] | None = None
    ) -> torch.Tensor:  # fmt: skip
        """Return what is added to the leading whitened components of (n, component, row, col).

        ``quick`` and ``wanted`` are as of :func:`denoise_components`.
        """
        import torch

        leading = mix(self.into, state)
        cleaned = torch.stack([denoise_components(image, step, quick=quick, wanted=wanted) for image in leading])
        return cleaned.sub_(leading)


@dataclass(frozen=True)
class Refinement:
    """Everything that is needed to refine tiles of a scene.

    Attributes
    ----------
    mean, forward, back
        Signal subspace, shapes (band,), (component, band), (band, component).
    first
        The first estimate.
    nonlocal_step, last
        Denoising of its components and the estimate after it; None without.
    guide_noise
        What the guide is cleaned of, shape (msi band,); None: it stays as it is.
    cleanable
        Whether the noise of every band of the guide is known.
    kind
        What is done.
    """

    mean: torch.Tensor
    forward: torch.Tensor
    back: torch.Tensor
    first: MapEstimator
    nonlocal_step: NonlocalStep | None = None
    last: MapEstimator | None = None
    guide_noise: torch.Tensor | None = None
    cleanable: bool = True
    kind: RefinementKind = "map"

    @classmethod
    def make(
        cls,
        model: SceneModel,
        prior: ErrorPrior,
        power: FloatMatrix,
        *,
        kind: RefinementKind,
        hsi_error: FloatMatrix | None = None,
        device: str = "cpu",
        aligned: bool = False,
    ) -> Refinement:
        """Prepare the refinement.

        Parameters
        ----------
        model, prior
            The pair, and how wrong the method is on it.
        power
            Covariance of the HSI's components, shape (component, component).
        kind
            What the refinement does.
        hsi_error
            Covariance of what the HSI's response leaves unexplained, shape (component, component): more than the
            noise where the response is not quite what is assumed. None: the noise alone.
        device
            Torch device.
        aligned
            For pairs that were made without the residual shift.
        """
        import torch

        space = model.space
        mean, forward, back, level = (
            torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)
            for array in (space.mean, space.forward, space.back, model.guide_noise)
        )
        variance, known = guide_variance(model, kind), bool((model.guide_noise > 0).all())

        def estimator(on_prior: float, on_guide: float) -> MapEstimator:
            return MapEstimator.make(
                model, on_prior * prior.covariance, on_guide * variance, hsi_error=hsi_error, device=device,
                aligned=aligned,
            )  # fmt: skip

        if kind != "nonlocal":
            cleaned = None if kind == "map" else level
            return cls(mean, forward, back, first=estimator(1.0, 1.0), guide_noise=cleaned, cleanable=known, kind=kind)
        first, last = estimator(_FIRST_PRIOR, _FIRST_GUIDE), estimator(_AGAIN, 1.0)
        step = NonlocalStep.make(model, first, power, LOOSE_WHITENING)
        return cls(mean, forward, back, first, step, last, guide_noise=level, cleanable=known, kind=kind)

    @property
    def halo_px(self) -> int:
        """HSI pixels of context that the refinement looks at beyond the base estimate's."""
        if self.nonlocal_step is None:
            return HALO_PX
        return 2 * HALO_PX + component_halo_px(self.first.ratio)

    @property
    def cleaning_halo_px(self) -> int:
        """HSI pixels of context that :meth:`clean` looks at."""
        if not self.cleans:
            return 0
        return filter_halo_px(self.first.ratio) if self.kind == "filter" else nonlocal_halo_px(self.first.ratio)

    @property
    def cleans(self) -> bool:
        """Whether :meth:`clean` changes anything."""
        return self.guide_noise is not None and self.cleanable

    def clean(self, msi: torch.Tensor, wanted: NDArray[np.bool_] | None = None) -> torch.Tensor:
        """Return the guide (n, msi band, row, col) without noise, or as it is.

        Elsewhere than at the pixels ``wanted``, shape (row, col), what is returned means nothing.
        """
        import torch

        if self.guide_noise is None or not self.cleanable:
            return msi
        # In units of no noise at all numbers would overflow; what is as clean as this floor stays as it is.
        floor = _LEAST_RELATIVE_NOISE * self.first.msi_mean.abs().max()
        level = torch.maximum(self.guide_noise, floor)[:, None, None]
        step = reference_step(self.first.ratio)
        if self.kind == "filter":
            return torch.stack([local_wiener.denoise(image / level, step=step) * level for image in msi])
        return torch.stack(
            [nonlocal_bayes.denoise(image / level, step=step, wanted=wanted) * level for image in msi]
        )  # fmt: skip

    def apply(self, hsi: torch.Tensor, msi: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """Refine a batch of tiles.

        Parameters
        ----------
        hsi
            Shape (n, band, row, col).
        msi
            The guide as :meth:`clean` leaves it, shape (n, msi band, row * ratio, col * ratio).
        base
            What a fusion method made of it, shape (n, band, row * ratio, col * ratio); changed in place.

        Returns
        -------
        torch.Tensor
            ``base`` with the correction added.
        """
        constant = (self.forward @ self.mean)[:, None, None]
        change = self.change(hsi, msi, mix(self.forward, base) - constant)
        for tile, more in zip(base, change, strict=True):
            # One product that adds into the result: no second array of all bands.
            tile.flatten(1).addmm_(self.back, more.flatten(1))
        return base

    def change(self, hsi: torch.Tensor, msi: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Return what to add to the components of a batch of tiles.

        Parameters
        ----------
        hsi, msi
            As in :meth:`apply`.
        state
            Components of the base estimate, shape (n, component, row * ratio, col * ratio).
        """
        seen = mix(self.forward, hsi) - (self.forward @ self.mean)[:, None, None]
        change = self.first.solve(seen, msi, state)
        if self.nonlocal_step is not None and self.last is not None:
            better = self.nonlocal_step.apply(state + change, reference_step(self.first.ratio))
            better += self.last.solve(seen, msi, better)
            change = better - state
        return change


def guide_variance(model: SceneModel, kind: RefinementKind) -> FloatMatrix:
    """Error variance of the guide as a refinement of a kind uses it, shape (msi band,)."""
    misfit = model.synthesis.residual_variance
    floor = 1e-9 * max(float(np.mean(misfit)), 1e-12)
    noise = GUIDE_NOISE[kind] * model.guide_noise**2
    return np.asarray(noise + misfit + floor)


def filter_halo_px(ratio: int) -> int:
    """HSI pixels of context for the local filter of a guide."""
    return -(-local_wiener.reach_px(reference_step(ratio)) // ratio)


def nonlocal_halo_px(ratio: int) -> int:
    """HSI pixels of context for denoising a guide; what lies farther has next to no weight."""
    return -(-nonlocal_bayes.reach_px() // (2 * ratio))


def component_halo_px(ratio: int) -> int:
    """The same for denoising components."""
    return -(-nonlocal_bayes.reach_px(nonlocal_bayes.COMPONENT_WINDOW_PX) // (2 * ratio))


def denoise_components(
    x: torch.Tensor, step: int, *, quick: bool = False, wanted: NDArray[np.bool_] | None = None
) -> torch.Tensor:  # fmt: skip
    """Clean components (component, row, col) whose error has unit variance.

    If ``quick``, by one pass with fewer patches. Elsewhere than at the pixels ``wanted``, shape (row, col), what is
    returned means nothing.
    """
    how = nonlocal_bayes
    if quick:
        return how.denoise(
            x, similar=how.QUICK_SIMILAR, window_px=how.QUICK_WINDOW_PX, step=step, passes=1, shrink=how.QUICK_SHRINK,
            wanted=wanted,
        )  # fmt: skip
    return how.denoise(
        x, similar=how.COMPONENT_SIMILAR, window_px=how.COMPONENT_WINDOW_PX, step=step, wanted=wanted
    )  # fmt: skip


def last_pass_px(ratio: int) -> int:
    """HSI pixels of context for :func:`denoise_result`: what lies farther moves reflectance by 6e-5 at most."""
    return -(-nonlocal_bayes.reach_px(nonlocal_bayes.RESULT_WINDOW_PX) // (3 * ratio))


def denoise_result(x: torch.Tensor, step: int, *, wanted: NDArray[np.bool_] | None = None) -> torch.Tensor:
    """Clean canonical components (component, row, col) of a result, which the gate has cleaned before.

    ``wanted`` is as of :func:`denoise_components`.
    """
    how = nonlocal_bayes
    cleaned = how.denoise(
        x / _RESULT_NOISE, similar=how.RESULT_SIMILAR, window_px=how.RESULT_WINDOW_PX, step=step, wanted=wanted
    )  # fmt: skip
    return cleaned * _RESULT_NOISE


def reference_step(ratio: int) -> int:
    """Distance of reference patches: a divisor of the ratio, so that tiles place them alike."""
    return max(step for step in (1, 2, 3) if ratio % step == 0)
