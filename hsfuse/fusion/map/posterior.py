"""Maximum a posteriori estimate of a tile, given what a fusion method made of it, in closed form.

In the noise-whitened signal subspace (HSI noise = identity) the estimate minimises

``(y - B u)' R^-1 (y - B u) + (m - S u)' Sm^-1 (m - S u) + (u - u0)' C^-1 (u - u0)``

with the HSI's components y, its response B and the covariance R of what that response leaves unexplained (the noise,
which is the identity, and the error of a response that is not quite right), the guide m, the guide's synthesis S from
the components, the guide's error variance Sm, and a fusion method's result u0 whose error has the covariance C, white
in space. With ``R = L L'`` and ``L' (S' Sm^-1 S + C^-1) L = Q diag(a) Q'`` the components ``Q' L^-1 u`` part, and each
is solved exactly by ``(B'B + a_i)^-1`` (Q. Wei, N. Dobigeon, J.-Y. Tourneret, Fast fusion of multi-band images based
on solving a Sylvester equation, IEEE TIP 24, 2015). What lies outside the subspace (rare materials) stays as the method
made it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import NO_OFFSET, Offset, Psf
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.map.blur import TileBlur
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel

if TYPE_CHECKING:
    import torch

HALO_PX = 10
"""HSI pixels of context beyond which nothing reaches: a whole image is reproduced to 7e-5. On a simulated scene with a
blur of 1.3 HSI pixels tiles and one tile differed by 2e-4 with 8 pixels, by 1e-3 with 6."""
_LEAST_ERROR = 1e-13
"""Of the HSI's mean error variance that is added in every direction: beside next to no noise displacement is so large
that rounding alone would leave no positive variance in others."""


@dataclass(frozen=True)
class Misfit:
    """What a state leaves unexplained.

    Attributes
    ----------
    blur
        The HSI's response to the tile.
    hsi
        Of the HSI's components, shape (n, component, row, col).
    msi, low_msi
        Of the guide on both grids, shape (n, msi band, row * ratio, col * ratio) and (n, msi band, row, col).
    """

    blur: TileBlur
    hsi: torch.Tensor
    msi: torch.Tensor
    low_msi: torch.Tensor

    @cached_property
    def turned(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``hsi`` and ``low_msi`` as :meth:`~hsfuse.fusion.map.blur.TileBlur.to_basis` turns them."""
        return self.blur.to_basis(self.hsi), self.blur.to_basis(self.low_msi)

    def with_guide(self, change: torch.Tensor) -> Misfit:
        """Return the misfit after something was added to the guide, shape (n, msi band, row * ratio, col * ratio)."""
        return replace(self, msi=self.msi + change, low_msi=self.low_msi + self.blur.apply(change))


@dataclass(frozen=True)
class MapEstimator:
    """The estimate, with everything that does not depend on the tile worked out.

    Attributes
    ----------
    enter, leave
        ``Q' L^-1`` and ``L Q``: to the components that part, and back, shape (component, component).
    synthesis, msi_mean
        MSI bands from the components, shapes (msi band, component) and (msi band,).
    pull
        ``Q' L' S' Sm^-1``, shape (component, msi band).
    precision
        The eigenvalues a, shape (component,).
    ratio, psf, offset_px
        The HSI's response.
    """

    enter: torch.Tensor
    leave: torch.Tensor
    synthesis: torch.Tensor
    msi_mean: torch.Tensor
    pull: torch.Tensor
    precision: torch.Tensor
    ratio: int
    psf: Psf
    offset_px: Offset

    @classmethod
    def make(
        cls,
        model: SceneModel,
        prior: FloatMatrix,
        guide_variance: FloatMatrix,
        *,
        hsi_error: FloatMatrix | None = None,
        device: str = "cpu",
        aligned: bool = False,
    ) -> MapEstimator:
        """Prepare the estimate.

        Parameters
        ----------
        model
            The pair.
        prior
            Covariance C of the method's error in the model's components, shape (component, component).
        guide_variance
            Sm, shape (msi band,).
        hsi_error
            R, shape (component, component); None: the noise alone.
        device
            Torch device.
        aligned
            Leave the residual shift out: the pair was made without one.
        """
        import torch

        synthesis = model.synthesis.matrix
        lower = np.eye(len(prior)) if hsi_error is None else np.linalg.cholesky(_with_floor(hsi_error))
        inside = synthesis.T @ (synthesis / guide_variance[:, None]) + np.linalg.inv(prior)
        values, vectors = np.linalg.eigh(lower.T @ inside @ lower)
        leave = lower @ vectors
        arrays = {
            "enter": np.linalg.solve(lower.T, vectors).T,
            "leave": leave,
            "synthesis": synthesis,
            "msi_mean": model.synthesis.mean,
            "pull": (synthesis @ leave / guide_variance[:, None]).T,
            "precision": np.maximum(values, 1e-6),
        }
        tensors = {
            name: torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)
            for name, array in arrays.items()
        }
        offset = NO_OFFSET if aligned else model.offset_px
        return cls(**tensors, ratio=model.ratio, psf=model.psf, offset_px=offset)

    def solve(self, seen: torch.Tensor, msi: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Return what to add to a state.

        Parameters
        ----------
        seen
            Components of the HSI, shape (n, component, row, col).
        msi
            The guide, shape (n, msi band, row * ratio, col * ratio).
        state
            Components of the base estimate, shape (n, component, row * ratio, col * ratio).

        Returns
        -------
        torch.Tensor
            Shape of ``state``.
        """
        return self.correct(self.misfit(seen, msi, state))

    def misfit(self, seen: torch.Tensor, msi: torch.Tensor, state: torch.Tensor) -> Misfit:
        """Return what a state leaves unexplained; the same for all estimates of a pair, whatever they trust.

        Parameters
        ----------
        seen, msi, state
            As in :meth:`solve`.
        """
        blur = TileBlur.of((state.shape[2], state.shape[3]), self.ratio, self.psf, self.offset_px, str(state.device))
        unexplained = msi - self.msi_mean[:, None, None] - mix(self.synthesis, state)
        return Misfit(blur, seen - blur.apply(state), unexplained, blur.apply(unexplained))

    def correct(self, misfit: Misfit, into: torch.Tensor | None = None) -> torch.Tensor:
        """Return what to add to the state, or to linear functions of it.

        Parameters
        ----------
        misfit
            Of the state.
        into
            Functions of the components, shape (function, component); None: the components themselves.
        """
        return misfit.blur.transpose(self.coarse(misfit, into)).add_(mix(self.direct(into), misfit.msi))

    def coarse(self, misfit: Misfit, into: torch.Tensor | None = None) -> torch.Tensor:
        """Return what :meth:`correct` spreads by the response's transpose, shape (n, component, row, col)."""
        blur, weight = misfit.blur, self.precision[:, None, None]
        leave = self.leave if into is None else into @ self.leave
        # The identity (B'B + a)^-1 = (1 - B' (B B' + a)^-1 B) / a leaves one blur and one transpose on the fine grid;
        # all that mixes components commutes with both, and with turning, and is done on the coarse one.
        hsi, low_msi = misfit.turned
        missing = (weight * mix(self.enter, hsi)).sub_(mix(self.pull, low_msi))
        return blur.from_basis(mix(leave, missing.div_((blur.power + weight).mul_(weight))))

    def direct(self, into: torch.Tensor | None = None) -> torch.Tensor:
        """Return what :meth:`correct` makes of the guide's misfit, pixel by pixel, shape (component, msi band)."""
        return (self.leave if into is None else into @ self.leave) @ (self.pull / self.precision[:, None])


def _with_floor(covariance: FloatMatrix) -> FloatMatrix:
    """Return a covariance that has a factor, whatever its contrast."""
    size = len(covariance)
    return np.asarray(covariance + _LEAST_ERROR * np.trace(covariance) / size * np.eye(size))
