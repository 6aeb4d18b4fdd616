"""How wrong a fitted field is at any position: what its points' noise causes, and what they cannot know.

The noise of neighbouring points is not independent, because their windows overlap. Every field here is linear in its
points, so its variance follows exactly from their covariance; the covariance follows from the overlap. How large the
noise really is, relative to the points' standard errors, is read from their residuals, with what the fit took out of
them given back.

Between and beyond points the spline follows its penalty. Read as the prior of a random field, the penalty says how
much of it the points leave open, once its size is moved half way to the roughness that the fit found; 0.4 of that
variance is what was found on generated fields of all kinds (waves, rotations, sums of random waves). Where one shift
has to do, what is left open is the affine field that the points suggest, and what they hold beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from hsfuse.coregister.models import Fitted, FloatArray, Points
from hsfuse.coregister.threads import spread

_JUDGED_POINTS, _AT_ONCE = 300, 96
"""Points that tell the noise, and positions that are looked at by one thread."""
_USED_WEIGHT = 0.2
_SCALE_LIMITS = (0.15, 25.0)
_LEAST_FREEDOM = 0.05


@dataclass(frozen=True)
class FieldUncertainty:
    """Variance of a fitted field.

    Attributes
    ----------
    fitted, points, weight
        The field, the points it was fitted to, and their robust weights.
    covariance
        Covariance of the points' noise (one coordinate), sparse, shape (point, point).
    scale
        Variance of the noise relative to ``covariance``.
    """

    fitted: Fitted
    points: Points
    weight: FloatArray
    covariance: scipy.sparse.csr_array
    scale: float

    @classmethod
    def of(cls, fitted: Fitted, points: Points, weight: FloatArray) -> FieldUncertainty:
        """Determine the noise of the points from how they scatter around the field."""
        covariance = overlap_covariance(points)
        used = np.flatnonzero(weight > _USED_WEIGHT)
        some = used[:: max(1, used.size // _JUDGED_POINTS)]
        raw = cls(fitted, points, weight, covariance, 1.0)
        own = points.sigma[some] ** 2

        def expect(part: slice) -> FloatArray:
            influence, _ = fitted.influence(points, weight, points.position[some[part]])
            mixed = np.asarray((covariance @ influence.T).T)
            at_own = mixed[np.arange(len(mixed)), some[part]]
            return np.asarray(own[part] - 2.0 * at_own + (mixed * influence).sum(axis=1))

        expected = np.concatenate(spread(expect, _parts(some.size)) or [np.zeros(0)])
        square = ((points.value[some] - fitted.at(points.position[some])) ** 2).sum(axis=1) / 2.0
        freedom = float((np.maximum(expected, 0.0) / own).sum())
        if freedom < max(_LEAST_FREEDOM * some.size, 1.0):
            return raw
        scale = float(np.clip((square / own).sum() / freedom, *_SCALE_LIMITS))
        return cls(fitted, points, weight, covariance, scale)

    def variance_at(self, position: FloatArray) -> FloatArray:
        """Variance of one coordinate at positions (row, col), in square pixels, shape (position,)."""

        def look(part: slice) -> FloatArray:
            influence, prior_variance = self.fitted.influence(self.points, self.weight, position[part])
            noise = (np.asarray((self.covariance @ influence.T).T) * influence).sum(axis=1)
            return np.asarray(self.scale * noise + prior_variance)

        return np.concatenate(spread(look, _parts(len(position))) or [np.zeros(0)])


def _parts(count: int) -> list[slice]:
    return [slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE)]


def overlap_covariance(points: Points) -> scipy.sparse.csr_array:
    """Covariance of measurements from overlapping Hann windows, for one coordinate."""
    from scipy.spatial import cKDTree

    distance, correlation = _hann_overlap(points.window)
    pairs = cKDTree(points.position).query_pairs(points.window, p=np.inf, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    apart = np.abs(points.position[first] - points.position[second])
    shared = np.interp(apart[:, 0], distance, correlation) * np.interp(apart[:, 1], distance, correlation)
    shared *= points.sigma[first] * points.sigma[second]
    every = np.arange(points.size)
    return scipy.sparse.coo_array(
        (
            np.concatenate([shared, shared, points.sigma**2]),
            (np.concatenate([first, second, every]), np.concatenate([second, first, every])),
        ),
        shape=(points.size, points.size),
    ).tocsr()


def _hann_overlap(side: float) -> tuple[FloatArray, FloatArray]:
    """Correlation of two windows' weights along one axis as a function of their distance in pixels."""
    x = np.linspace(-0.5, 0.5, 65)
    profile = np.cos(np.pi * x) ** 2
    overlap: FloatArray = np.asarray(np.correlate(profile, profile, mode="full")[64:], dtype=np.float64)
    distance: FloatArray = np.linspace(0.0, side, 65)
    return distance, overlap / overlap[0]
