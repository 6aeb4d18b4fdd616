"""Where the guide contradicts the HSI: candidates for ground that differs between the two images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.scene_model.relation import OUTLIER_DISTANCE, FloatArray, GuideRelation

_LEAST_CONTRAST = 4e-4


def neighbour_mean(x: NDArray[np.floating]) -> FloatArray:
    """Mean of the four neighbours of every pixel of (band, row, col), edges reflected."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return np.asarray(around / 4.0, np.float64)


@dataclass(frozen=True)
class Contradiction:
    """Where the guide contradicts the HSI.

    Attributes
    ----------
    candidates
        Pixels that may hold foreign ground: far from the relation, and worse predicted by the guide than by their
        neighbours (rare materials are not), shape (row, col).
    rivalry
        Error of the guide over that of the four neighbours when they predict the HSI, shape (row, col).
    misfit
        Squared error of the guide, mean over the bands in units of their variance, shape (row, col).
    power
        Variance of every MSI band as the HSI shows it, shape (msi band,).
    """

    candidates: NDArray[np.bool_]
    rivalry: FloatArray
    misfit: FloatArray
    power: FloatArray

    @classmethod
    def find(cls, relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> Contradiction:
        """Compare a relation with the MSI at low resolution, shape (msi band, row, col)."""
        seen = relation.seen
        power = np.maximum(seen[:, valid].var(axis=1), 1e-12)
        scale = power[:, None, None]
        misfit = ((msi - seen) ** 2 / scale).mean(axis=0)
        contrast = ((seen - neighbour_mean(seen)) ** 2 / scale).mean(axis=0)
        soft_misfit, soft_contrast = (gaussian_filter(x, 0.7, mode="constant") for x in (misfit, contrast))
        rivalry = soft_misfit / (soft_contrast + _LEAST_CONTRAST)
        candidates = (relation.distance > OUTLIER_DISTANCE) & (rivalry > 1.0) & valid
        return cls(np.asarray(candidates, dtype=np.bool_), rivalry, misfit, power)
