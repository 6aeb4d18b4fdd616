"""How far to believe a result, per fine pixel: probability of change, and the expected error.

Both are small regressions on what the repair of the guide saw, fitted on simulated changes of measured cubes
(``benchmarks/fit_confidence.py``); none of the test sites of ``benchmarks/sites.toml`` took part.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.evidence import Evidence
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import Subspace
from hsfuse.fusion.gaussian import gaussian
from hsfuse.fusion.scene_model.contradiction import neighbour_mean
from hsfuse.fusion.scene_model.pair import CoarsePair

FloatArray = NDArray[np.float64]

_TINY = 1e-4
_SOFT_PX = 0.7
_OF_NOISE = 0.1
"""Share of the HSI's noise that the signal subspace holds, about."""


@dataclass(frozen=True)
class ErrorModel:
    """Coefficients of both regressions.

    Attributes
    ----------
    change
        Logistic regression of the change, see :func:`change_features`.
    error
        Regression of the log of the squared error, see :func:`error_features`.
    bound
        The error that 90 % of the pixels stay below, over the expected one.
    """

    change: FloatArray
    error: FloatArray
    bound: float

    @classmethod
    def load(cls) -> ErrorModel:
        """Read the package's own coefficients."""
        with files("hsfuse.fusion.change").joinpath("confidence.npz").open("rb") as stream, np.load(stream) as stored:
            return cls(stored["change"], stored["error"], float(stored["bound"]))


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
            contrast = _contrast(np.asarray(band, np.float32))
            rough += contrast * contrast
            bright += band * band
        return cls(rough / len(hsi), bright / len(hsi))


@dataclass(frozen=True)
class SceneTraits:
    """What the expected error follows from beside the guide itself.

    Attributes
    ----------
    coarse
        Roughness and brightness of the HSI.
    unexplained
        Squared difference of the HSI and its neighbours that the guide's does not explain, mean over the bands, shape
        (row, col): what is missing at this resolution is like what will be missing at the next finer one.
    colour_mean, colour_precision
        Of the guide's colours over the scene, shapes (msi band,) and (msi band, msi band): rare colours are fused
        less well.
    noise_variance
        Of the HSI, mean over the bands.
    """

    coarse: CoarseTraits
    unexplained: NDArray[np.floating]
    colour_mean: FloatArray
    colour_precision: FloatArray
    noise_variance: float

    @classmethod
    def of(cls, pair: CoarsePair, coarse: CoarseTraits, seen: FloatArray, space: Subspace) -> SceneTraits:
        """Measure on the HSI's components, and on the guide as the HSI shows it (``seen``)."""
        colours = seen[:, pair.valid]
        covariance = np.cov(colours) + 1e-6 * max(float(colours.var()), 1e-12) * np.eye(len(seen))
        return cls(
            coarse, _unexplained_roughness(pair, seen, space.back), colours.mean(axis=1),
            np.asarray(np.linalg.inv(covariance), np.float64), float((space.noise**2).mean()),
        )  # fmt: skip

    def rareness(self, guide: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distance of every pixel's colours from the scene's, shape (row, col)."""
        off = guide - self.colour_mean.astype(np.float32)[:, None, None]
        # By its root: single precision would lose much in a difference of large numbers.
        root = np.linalg.cholesky(self.colour_precision).T.astype(np.float32)
        return np.asarray((np.tensordot(root, off, axes=1) ** 2).sum(axis=0))


def _unexplained_roughness(pair: CoarsePair, seen: FloatArray, back: FloatArray) -> NDArray[np.float32]:
    """Regress what the components have beyond their neighbours on what the guide has; mean square that is left."""
    rank, bands = len(pair.components), len(seen)
    contrast = seen - neighbour_mean(seen)
    own, cross = contrast[:, pair.valid], np.zeros((rank, bands))
    inner = own @ own.T
    for index, component in enumerate(pair.components):
        cross[index] = own @ _contrast(np.asarray(component, np.float32))[pair.valid]
    inner += 1e-6 * max(float(np.trace(inner)), 1e-20) * np.eye(bands)
    slope = np.linalg.solve(inner, cross.T).T
    # Mean over the HSI's bands: the components' metric, one row of its root at a time.
    values, vectors = np.linalg.eigh(back.T @ back / len(back))
    left = np.zeros(pair.valid.shape, np.float32)
    contrast = contrast.astype(np.float32)
    for value, vector in zip(values, vectors.T, strict=True):
        image = np.tensordot(vector.astype(np.float32), np.asarray(pair.components, np.float32), axes=1)
        rest = _contrast(image) - np.tensordot((vector @ slope).astype(np.float32), contrast, axes=1)
        left += np.float32(max(float(value), 0.0)) * rest**2
    return left


def _contrast(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Difference of (row, col) and the mean of the four neighbours, edges reflected."""
    wide = np.pad(image, 1, mode="reflect")
    around = wide[:-2, 1:-1] + wide[2:, 1:-1]
    around += wide[1:-1, :-2]
    around += wide[1:-1, 2:]
    around *= np.float32(0.25)
    contrast: NDArray[np.float32] = np.subtract(image, around, out=around)
    return contrast


@dataclass(frozen=True)
class CoarseFeatures:
    """What both regressions follow from at low resolution, filtered once for the whole scene.

    Attributes
    ----------
    images
        Shape (image, row, col): what the HSI shows of the guide's bands, then two images for the change (the log of the
        distance from the relation, the rivalry) and five for the error (roughness, misfit, brightness, and what is
        unexplained of the roughness in two widths).
    floors
        Added to the last seven before their logarithm is taken, shape (7,).
    """

    images: NDArray[np.float32]
    floors: NDArray[np.float32]

    @classmethod
    def of(cls, evidence: Evidence, traits: SceneTraits) -> CoarseFeatures:
        """Filter the images of a scene."""
        contradiction, noise = evidence.contradiction, traits.noise_variance
        images = [
            *evidence.relation.seen, np.log1p(evidence.relation.distance), contradiction.rivalry,
            gaussian(traits.coarse.roughness, _SOFT_PX), gaussian(contradiction.misfit, _SOFT_PX),
            traits.coarse.brightness, gaussian(traits.unexplained, _SOFT_PX), gaussian(traits.unexplained, 2.0),
        ]  # fmt: skip
        floors = [0.1, 1e-2, noise, 1e-5, 1e-5, _OF_NOISE * noise, _OF_NOISE * noise]
        return cls(np.stack([np.asarray(each, np.float32) for each in images]), np.array(floors, np.float32))

    def block(self, where: tuple[slice, slice], response: Response) -> tuple[NDArray[np.float32], ...]:
        """Return a block on the fine grid: the guide's bands, and the logarithms for the change and for the error."""
        fine = response.up_single(self.images[:, *where])
        bands = len(fine) - len(self.floors)
        logs = np.log(np.maximum(fine[bands:], 0.0) + self.floors[:, None, None])
        return fine[:bands], logs[:2], logs[2:]


def change_features(logs: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of the change of a block, shape (feature, row, col) on the fine grid.

    ``logs`` is what :meth:`CoarseFeatures.block` has for it, ``share`` what the matting found, on the fine grid.
    """
    return np.stack([np.ones_like(share), share, gaussian(share, 1.0), *logs])


@dataclass(frozen=True)
class ErrorFeatures:
    """What the log of the squared error of a block follows from, on the fine grid.

    Attributes
    ----------
    base
        Shape (feature, row, col).
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
    seen, logs
        What :meth:`CoarseFeatures.block` has for the block.
    power
        Variance of the guide's bands, shape (msi band,).
    guide
        The repaired guide of the block, shape (msi band, row, col).
    change, own_detail
        Of the block, shape (row, col).
    """
    scale = power.astype(np.float32)[:, None, None]
    detail = ((guide - seen) ** 2 / scale).mean(axis=0)
    noise = traits.noise_variance
    rough, misfit, bright, unexplained, wide = logs
    base = np.stack([
        np.ones_like(detail),
        np.full_like(detail, np.log(noise)),
        np.log(gaussian(detail, _SOFT_PX) + np.float32(_TINY)),
        rough,
        misfit,
        bright,
        np.log(gaussian(detail, 3.0) + np.float32(_TINY)),
        np.full_like(detail, np.log(float(np.mean(traits.coarse.roughness)) + noise)),
        unexplained,
        wide,
        np.log(gaussian((guide**2).mean(axis=0), _SOFT_PX) + np.float32(1e-5)),
        np.log(gaussian((_slope(guide) / scale).mean(axis=0), _SOFT_PX) + np.float32(1e-3)),
        np.log1p(traits.rareness(guide)),
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
    """Probability of change, 0 to 1."""
    value = np.tensordot(model.change.astype(np.float32), features, axes=1)
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(value, -30.0, 30.0))), np.float32)


def apply_error(model: ErrorModel, features: ErrorFeatures) -> NDArray[np.float32]:
    """Expected root mean square error over the bands, reflectance."""
    weights, count = model.error.astype(np.float32), len(features.base)
    value = np.tensordot(weights[:count], features.base, axes=1) + weights[-1] * features.kept
    if features.replaced.any():
        value += features.replaced * np.tensordot(weights[count:-1], features.base, axes=1)
    return np.asarray(np.exp(0.5 * np.clip(value, -25.0, 2.0)), np.float32)
