"""How far to believe a result, per fine pixel: probability of change, and the expected error.

Both are small regressions on what the repair of the guide saw, fitted on simulated changes of measured cubes
(``benchmarks/fit_confidence.py``); none of the test sites of ``benchmarks/sites.toml`` took part.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.quick_estimate import QuickEstimate
from hsfuse.fusion.classical.statistics import Subspace
from hsfuse.fusion.gaussian import gaussian
from hsfuse.fusion.neighbours import over_neighbours
from hsfuse.fusion.scene_model.pair import CoarsePair

FloatArray = NDArray[np.float64]

_TINY = 1e-4
_TINY_SHARE = 1e-6
_DARK = 1e-2
"""Share of the scene's mean colours that is added to a pixel's sum: the colours of what is dark are noise."""
_SOFT_PX = 0.7
DETAIL = 2
"""Feature of the error: the log of the square of what the guide adds."""
_SURE = 1e-3
"""Probability of change, and of none, that counts as certain."""
_UNASKED, BEFORE_IMAGES = 2, 3
"""Feature of the change that is 1 where the network was not asked, and those before the images at low resolution."""


@dataclass(frozen=True)
class ErrorModel:
    """Coefficients of both regressions.

    Attributes
    ----------
    change
        Logistic regression of the change, see :func:`change_features`.
    error
        Regression of the log of the squared error, see :func:`error_features`.
    bounds
        The error that 90 % of the pixels stay below, over the expected one, shape (2,): of scenes whose guide came as
        the HSI, and of those whose guide was corrected locally. What a correction leaves spreads the errors, and no
        fine pixel tells where.
    """

    change: FloatArray
    error: FloatArray
    bounds: FloatArray

    @classmethod
    def load(cls) -> ErrorModel:
        """Read the package's own coefficients."""
        with files("hsfuse.fusion.change").joinpath("confidence.npz").open("rb") as stream, np.load(stream) as stored:
            return cls(stored["change"], stored["error"], stored["bounds"])

    def bound(self, corrections: int) -> float:
        """Return the bound of a scene by the number of local corrections of its guide."""
        return float(self.bounds[int(corrections > 0)])


@dataclass(frozen=True)
class CoarseTraits:
    """What the expected error follows from at low resolution; all of shape (row, col).

    Attributes
    ----------
    roughness
        Squared difference of the HSI and its neighbours, mean over the bands.
    brightness
        Mean square of the HSI over the bands.
    """

    roughness: NDArray[np.floating]
    brightness: NDArray[np.floating]

    @classmethod
    def of(cls, hsi: NDArray[np.floating]) -> CoarseTraits:
        """Measure on an HSI (band, row, col)."""
        rough, bright = np.zeros((2, *hsi.shape[1:]), np.float32)
        for band in hsi:
            detail = over_neighbours(np.asarray(band, np.float32))
            rough += detail * detail
            bright += band * band
        return cls(rough / len(hsi), bright / len(hsi))


@dataclass(frozen=True)
class SceneTraits:
    """What the expected error follows from beside the guide itself.

    Attributes
    ----------
    coarse
        Roughness and brightness of the HSI.
    estimate
        Of what a fusion will make of the scene.
    colour_mean, colour_precision
        Of the guide's colours over the scene, shapes (msi band,) and (msi band, msi band): rare colours are fused
        less well.
    """

    coarse: CoarseTraits
    estimate: QuickEstimate
    colour_mean: FloatArray
    colour_precision: FloatArray

    @classmethod
    def of(cls, pair: CoarsePair, coarse: CoarseTraits, seen: FloatArray, space: Subspace) -> SceneTraits:
        """Measure on the HSI's components, and on the guide as the HSI shows it (``seen``)."""
        colours = seen[:, pair.valid]
        covariance = np.cov(colours) + 1e-6 * max(float(colours.var()), 1e-12) * np.eye(len(seen))
        return cls(
            coarse, QuickEstimate.of(pair, seen, space), colours.mean(axis=1),
            np.asarray(np.linalg.inv(covariance), np.float64),
        )  # fmt: skip

    def rareness(self, guide: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distance of every pixel's colours from the scene's, shape (row, col)."""
        off = guide - self.colour_mean.astype(np.float32)[:, None, None]
        # By its root: single precision would lose much in a difference of large numbers.
        root = np.linalg.cholesky(self.colour_precision).T.astype(np.float32)
        return np.asarray((np.tensordot(root, off, axes=1) ** 2).sum(axis=0))

    def colour_contrast(self, guide: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared difference of every pixel's shares of its colours and its neighbours', whatever its brightness is.

        Shape (row, col).
        """
        dark = np.float32(_DARK * np.sqrt((self.colour_mean**2).sum()))
        shares = guide / (np.abs(guide).sum(axis=0) + dark)
        return np.asarray((over_neighbours(shares) ** 2).sum(axis=0))


def change_features(
    images: NDArray[np.float32], probability: NDArray[np.float32], detail: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Features of the change of a block, shape (feature, row, col) on the fine grid.

    Near candidates the network of :mod:`hsfuse.fusion.change.decision` knows best; elsewhere what the pair shows at low
    resolution tells which pixels are the least unlikely to have changed.

    Parameters
    ----------
    images
        What :meth:`~hsfuse.fusion.change.coarse_features.CoarseFeatures.block` has for the block.
    probability
        What the network says, 0 where it was not asked, shape (row, col).
    detail
        Log of the square of what the guide adds, the same shape.
    """
    logit = np.log((probability + np.float32(_SURE)) / (np.float32(1.0 + _SURE) - probability))
    unasked = (probability <= 0.0).astype(np.float32)
    return np.stack([np.ones_like(logit), logit, unasked, *(unasked * image for image in images), unasked * detail])


@dataclass(frozen=True)
class ErrorFeatures:
    """What the log of the squared error of a block follows from, on the fine grid.

    Attributes
    ----------
    base
        Shape (feature, row, col); :data:`DETAIL` is that of the guide's detail.
    replaced, kept
        Share of each pixel whose detail was replaced, and of changed ground that kept its own, shape (row, col).
    """

    base: NDArray[np.float32]
    replaced: NDArray[np.float32]
    kept: NDArray[np.float32]

    def cut(self, inside: tuple[slice, slice]) -> ErrorFeatures:
        """Return a part of the block."""
        return ErrorFeatures(self.base[:, *inside], self.replaced[inside], self.kept[inside])

    def stacked(self) -> NDArray[np.float32]:
        """All regressors, shape (feature, row, col): those of replaced ground are the others once more."""
        return np.concatenate([self.base, self.replaced * self.base, self.kept[None]])


def error_features(
    traits: SceneTraits,
    interpolated: NDArray[np.float32],
    seen: NDArray[np.float32],
    logs: NDArray[np.float32],
    power: FloatArray,
    guide: NDArray[np.float32],
    change: NDArray[np.float32],
    own_detail: NDArray[np.float32],
) -> ErrorFeatures:
    """Features of the squared error of a block.

    Parameters
    ----------
    traits
        Of the scene.
    interpolated
        What :meth:`QuickEstimate.block` has for the block.
    seen, logs
        What :meth:`~hsfuse.fusion.change.coarse_features.CoarseFeatures.block` has for it.
    power
        Variance of the guide's bands, shape (msi band,).
    guide
        The repaired guide of the block, shape (msi band, row, col).
    change, own_detail
        Of the block, shape (row, col).
    """
    scale = power.astype(np.float32)[:, None, None]
    detail = ((guide - seen) ** 2 / scale).mean(axis=0)
    noise = traits.estimate.noise_variance
    base = np.stack([
        np.ones_like(detail),
        np.full_like(detail, np.log(noise)),
        np.log(gaussian(detail, _SOFT_PX) + np.float32(_TINY)),
        np.full_like(detail, traits.estimate.typical),
        *logs,
        np.log(gaussian((_slope(guide) / scale).mean(axis=0), _SOFT_PX) + np.float32(1e-3)),
        np.log1p(traits.rareness(guide)),
        *traits.estimate.features(interpolated, guide, seen),
        np.log(gaussian(traits.colour_contrast(guide), _SOFT_PX) + np.float32(_TINY_SHARE)),
    ])  # fmt: skip
    return ErrorFeatures(base, change * (1.0 - own_detail), change * own_detail)


def _slope(guide: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the squares of Sobel's derivatives, smoothed over neighbouring bands too, shape (msi band, row, col)."""
    wide = np.pad(guide, 1, mode="symmetric")
    bands = wide[:-2] + 2.0 * wide[1:-1] + wide[2:]
    down = bands[:, 2:] - bands[:, :-2]
    across = bands[:, :, 2:] - bands[:, :, :-2]
    down = down[:, :, :-2] + 2.0 * down[:, :, 1:-1] + down[:, :, 2:]
    across = across[:, :-2] + 2.0 * across[:, 1:-1] + across[:, 2:]
    return np.asarray(down**2 + across**2, np.float32)


def apply_change(model: ErrorModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of change, 0 to 1; below a half where the network was not asked: nothing was repaired there."""
    value = np.tensordot(model.change.astype(np.float32), features, axes=1)
    found = 1.0 / (1.0 + np.exp(-np.clip(value, -30.0, 30.0)))
    return np.asarray(found / (1.0 + features[_UNASKED] * found), np.float32)


def apply_error(model: ErrorModel, features: ErrorFeatures) -> NDArray[np.float32]:
    """Expected root mean square error over the bands, reflectance."""
    weights, count = model.error.astype(np.float32), len(features.base)
    value = np.tensordot(weights[:count], features.base, axes=1) + weights[-1] * features.kept
    if features.replaced.any():
        value += features.replaced * np.tensordot(weights[count:-1], features.base, axes=1)
    return np.asarray(np.exp(0.5 * np.clip(value, -25.0, 2.0)), np.float32)
