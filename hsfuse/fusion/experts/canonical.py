"""The coordinates in which experts speak: components whose remaining error is white, strongest first.

In them a scene looks alike whatever its sensor and bands: the error of the maximum a posteriori estimate has about
unit variance in every component, and only the order of the strengths tells one from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.map.posterior import MapEstimator
from hsfuse.fusion.map.refinement import NonlocalStep
from hsfuse.fusion.scene_model.model import SceneModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CanonicalComponents:
    """Leading components, whitened by a share of the posterior covariance.

    Attributes
    ----------
    into, out
        From the signal subspace to the canonical components and back, shapes (component, subspace) and
        (subspace, component).
    level
        What a reflectance of 0 is, so that ``components - level`` is proportional to reflectance; shape (component,).
    deviation
        Standard deviation over the scene without noise, shape (component,).
    """

    into: torch.Tensor
    out: torch.Tensor
    level: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def make(cls, model: SceneModel, estimator: MapEstimator, power: FloatMatrix) -> CanonicalComponents:
        """Find them.

        Parameters
        ----------
        model
            The pair.
        estimator
            Whose posterior covariance whitens.
        power
            Covariance of the HSI's components in the signal subspace, noise included.
        """
        import torch

        step = NonlocalStep.make(model, estimator, power)
        into, out = (m.double().cpu().numpy() for m in (step.into, step.out))
        variance = np.diag(into @ (power - np.eye(len(power))) @ into.T)
        level = -into @ (model.space.forward @ model.space.mean)

        def tensor(array: FloatMatrix) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=step.into.device)

        return cls(tensor(into), tensor(out), tensor(level), tensor(np.sqrt(np.maximum(variance, 0.0))))

    @property
    def count(self) -> int:
        """Number of components."""
        return int(self.into.shape[0])

    @property
    def log_strength(self) -> torch.Tensor:
        """Logarithm of one plus the signal-to-noise ratio, shape (component,)."""
        return self.deviation.log1p()
