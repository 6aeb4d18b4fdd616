"""How far to believe a result, per fine pixel: probability of change, and the expected error.

Both are small regressions on what the repair of the guide saw, fitted on simulated changes of measured cubes
(``benchmarks/fit_confidence.py``); the sites are those of the training side of ``benchmarks/sites.toml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, sobel

from hsfuse.fusion.change.evidence import Evidence
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import Subspace
from hsfuse.fusion.scene_model.contradiction import neighbour_mean
from hsfuse.fusion.scene_model.relation import CoarsePair

FloatArray = NDArray[np.float64]

_TINY = 1e-4
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
        rough = np.zeros(hsi.shape[1:])
        for band in hsi:
            rough += (band - neighbour_mean(band[None])[0]) ** 2
        return cls(rough / len(hsi), (np.asarray(hsi, np.float64) ** 2).mean(axis=0))


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

    def rareness(self, guide: NDArray[np.floating]) -> FloatArray:
        """Squared distance of every pixel's colours from the scene's, shape (row, col)."""
        off = guide - self.colour_mean[:, None, None]
        return np.asarray((off * np.tensordot(self.colour_precision, off, axes=1)).sum(axis=0))


def _unexplained_roughness(pair: CoarsePair, seen: FloatArray, back: FloatArray) -> NDArray[np.float32]:
    """Regress what the components have beyond their neighbours on what the guide has; mean square that is left."""
    rank, bands = len(pair.components), len(seen)
    contrast = seen - neighbour_mean(seen)
    own, cross = contrast[:, pair.valid], np.zeros((rank, bands))
    inner = own @ own.T
    for index, component in enumerate(pair.components):
        rough = component[None] - neighbour_mean(component[None])
        cross[index] = own @ rough[0][pair.valid]
    inner += 1e-6 * max(float(np.trace(inner)), 1e-20) * np.eye(bands)
    slope = np.linalg.solve(inner, cross.T).T
    # Mean over the HSI's bands: the components' metric, one row of its root at a time.
    values, vectors = np.linalg.eigh(back.T @ back / len(back))
    left = np.zeros(pair.valid.shape)
    for value, vector in zip(values, vectors.T, strict=True):
        image = np.tensordot(vector.astype(pair.components.dtype), pair.components, axes=1)[None].astype(np.float64)
        rest = image - neighbour_mean(image) - np.tensordot(vector @ slope, contrast, axes=1)
        left += max(float(value), 0.0) * rest[0] ** 2
    return left.astype(np.float32)


def change_features(
    evidence: Evidence, where: tuple[slice, slice], share: NDArray[np.floating], response: Response
) -> FloatArray:
    """Features of the change of a block of coarse pixels ``where``, shape (feature, row, col) on the fine grid.

    ``share`` is what the matting found, on the fine grid.
    """
    relation, contradiction = evidence.relation, evidence.contradiction
    distance = _log(response, np.log1p(relation.distance[where]), 0.1)
    rivalry = _log(response, contradiction.rivalry[where], 1e-2)
    share = np.asarray(share, np.float64)
    near = gaussian_filter(share, 1.0)
    return np.stack([np.ones_like(share), share, near, distance, rivalry])


def error_features(
    evidence: Evidence,
    traits: SceneTraits,
    where: tuple[slice, slice],
    guide: NDArray[np.floating],
    change: NDArray[np.floating],
    own_detail: NDArray[np.floating],
    response: Response,
) -> FloatArray:
    """Features of the squared error of a block, shape (feature, row, col) on the fine grid.

    Parameters
    ----------
    evidence, traits, where
        The scene at low resolution, and which coarse pixels.
    guide
        The repaired guide of the block, shape (msi band, row, col).
    change, own_detail
        Of the block, shape (row, col).
    response
        The HSI's response.
    """
    seen, power = evidence.relation.seen[:, *where], evidence.contradiction.power[:, None, None]
    detail = ((guide - response.up(seen)) ** 2 / power).mean(axis=0)
    noise_variance, coarse = traits.noise_variance, traits.coarse
    rough, unexplained = np.asarray(coarse.roughness)[where], np.asarray(traits.unexplained)[where]
    slope = sobel(guide, axis=1) ** 2 + sobel(guide, axis=2) ** 2
    lines = [
        np.full(detail.shape, np.log(noise_variance)),
        np.log(gaussian_filter(detail, 0.7) + _TINY),
        _log(response, _soft(rough), noise_variance),
        _log(response, _soft(evidence.contradiction.misfit[where]), 1e-5),
        _log(response, np.asarray(coarse.brightness)[where], 1e-5),
        np.log(gaussian_filter(detail, 3.0) + _TINY),
        np.full(detail.shape, np.log(float(np.mean(coarse.roughness)) + noise_variance)),
        _log(response, _soft(unexplained), _OF_NOISE * noise_variance),
        _log(response, np.asarray(gaussian_filter(unexplained, 2.0)), _OF_NOISE * noise_variance),
        np.log(gaussian_filter((guide**2).mean(axis=0), 0.7) + 1e-5),
        np.log(gaussian_filter((slope / power).mean(axis=0), 0.7) + 1e-3),
        np.log1p(np.maximum(traits.rareness(guide), 0.0)),
    ]
    base = np.stack([np.ones(detail.shape), *lines])
    replaced = change * (1.0 - own_detail)
    return np.concatenate([base, replaced[None] * base, (change * own_detail)[None]])


def apply_change(model: ErrorModel, features: FloatArray) -> NDArray[np.float32]:
    """Probability of change, 0 to 1."""
    value = np.tensordot(model.change, features, axes=1)
    return (1.0 / (1.0 + np.exp(-np.clip(value, -30.0, 30.0)))).astype(np.float32)


def apply_error(model: ErrorModel, features: FloatArray) -> NDArray[np.float32]:
    """Expected root mean square error over the bands, reflectance."""
    value = np.tensordot(model.error, features, axes=1)
    return np.exp(0.5 * np.clip(value, -25.0, 2.0)).astype(np.float32)


def _log(response: Response, image: NDArray[np.floating], floor: float) -> FloatArray:
    return np.asarray(np.log(np.maximum(response.up(np.asarray(image)[None])[0], 0.0) + floor))


def _soft(x: NDArray[np.floating]) -> FloatArray:
    return np.asarray(gaussian_filter(np.asarray(x, np.float64), 0.7))
