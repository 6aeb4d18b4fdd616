"""How far to believe a result, per fine pixel: probability of change, and the expected error.

Both are small regressions on what the repair of the guide saw, fitted on simulated changes of measured cubes
(``benchmarks/fit_confidence.py``); the sites are those of the training side of ``benchmarks/sites.toml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.change.evidence import Evidence
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model.contradiction import neighbour_mean

FloatArray = NDArray[np.float64]

_TINY = 1e-4


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
    traits: CoarseTraits,
    where: tuple[slice, slice],
    guide: NDArray[np.floating],
    change: NDArray[np.floating],
    own_detail: NDArray[np.floating],
    response: Response,
    noise_variance: float,
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
    noise_variance
        Of the HSI, mean over the bands.
    """
    seen, power = evidence.relation.seen[:, *where], evidence.contradiction.power[:, None, None]
    detail = ((guide - response.up(seen)) ** 2 / power).mean(axis=0)
    rough = np.asarray(traits.roughness)[where]
    lines = [
        np.full(detail.shape, np.log(noise_variance)),
        np.log(gaussian_filter(detail, 0.7) + _TINY),
        _log(response, _soft(rough), noise_variance),
        _log(response, _soft(evidence.contradiction.misfit[where]), 1e-5),
        _log(response, np.asarray(traits.brightness)[where], 1e-5),
        np.log(gaussian_filter(detail, 3.0) + _TINY),
        np.full(detail.shape, np.log(float(np.mean(traits.roughness)) + noise_variance)),
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
