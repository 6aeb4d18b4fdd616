"""Find the spectral response of a guide on the scene: which mixture of HSI bands is what the guide shows.

Both images of a pair, at low resolution, hold the same light. A non-negative, smooth weight of every band is fitted
so that the bands add up to the guide; how smooth is decided on pixels that were kept out. A nominal response, where
there is one, has to be beaten on these pixels too: on a scene without colours, regression finds any mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.spectral import BandTable, SpectralResponse, srf_weights

FloatArray = NDArray[np.float64]

_SMOOTHNESS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the curvature that are tried, relative to the variance of the bands."""
_RANGE_NM = (350.0, 1100.0)
"""Silicon sees nothing else; a band beyond imitates what it correlates with."""
_LEAST_PIXELS = 500
_BLOCKS = 8
_BEATEN_BY = 0.02
"""Share of the variance left by the nominal response that regression must explain to replace it."""
_GOOD_ENOUGH = 0.9995
"""A nominal response that explains so much cannot be told from a better one."""


@dataclass(frozen=True)
class ResponseEstimate:
    """What was found.

    Attributes
    ----------
    response
        To be used: the measured one, or the nominal one where that explains the guide as well.
    measured
        Whether it is the measured one.
    explained
        Share of the guide's variance that it explains on pixels that were kept out, 0 to 1.
    explained_nominal
        The same of the nominal response; None without one.
    """

    response: SpectralResponse
    measured: bool
    explained: float
    explained_nominal: float | None = None


def estimate_response(
    hsi: NDArray[np.floating],
    guide: NDArray[np.floating],
    bands: BandTable,
    *,
    name: str,
    nominal: SpectralResponse | None = None,
) -> ResponseEstimate | None:
    """Fit the response of one guide band.

    Parameters
    ----------
    hsi
        Reflectance of pixels that are valid in both images, shape (band, pixel), in the order of the scene.
    guide
        The guide at the HSI's resolution, shape (pixel,).
    bands
        Bands of ``hsi``, ascending.
    name
        Of the guide's band.
    nominal
        What is assumed so far.

    Returns
    -------
    ResponseEstimate or None
        None where there are too few pixels, or no bands under any optical response.
    """
    used = np.flatnonzero((bands.centre_nm >= _RANGE_NM[0]) & (bands.centre_nm <= _RANGE_NM[1]))
    if used.size < 3 or guide.size < _LEAST_PIXELS:
        return None
    x, y = hsi[used].astype(np.float64), guide.astype(np.float64)
    # Neighbours in the scene are alike: whole stretches of it are kept out.
    kept_out = np.arange(y.size) * _BLOCKS // y.size % 2 == 1
    fits = [_fit(x[:, ~kept_out], y[~kept_out], bands.take(used), s) for s in _SMOOTHNESS]
    shares = [_explained(w @ x, y, kept_out) for w in fits]
    best = int(np.argmax(shares))
    known = None
    if nominal is not None:
        weights = srf_weights(bands.take(used), [nominal])[0]
        known = _explained(weights @ x, y, kept_out) if weights.any() else None
        if known is not None and (known > _GOOD_ENOUGH or 1.0 - shares[best] > (1.0 - known) * (1.0 - _BEATEN_BY)):
            return ResponseEstimate(nominal, False, known, known)
    weights = _fit(x, y, bands.take(used), _SMOOTHNESS[best])
    if not weights.any():
        return None
    return ResponseEstimate(_as_response(weights, bands.take(used), name), True, shares[best], known)


def _fit(x: FloatArray, y: FloatArray, bands: BandTable, smoothness: float) -> FloatArray:
    """Non-negative weights of the bands; what is smooth is their density over the wavelength."""
    share = _share(bands)
    centred = (x - x.mean(axis=1, keepdims=True)) * share[:, None]
    gram = centred @ centred.T / y.size
    right = centred @ (y - y.mean()) / y.size
    curvature = np.diff(np.eye(share.size), 2, axis=0)
    total = gram + smoothness * np.trace(gram) / share.size * (curvature.T @ curvature)
    total += 1e-9 * np.trace(gram) * np.eye(share.size)
    factor = np.linalg.cholesky(total)
    # Takes a third of a second to import, which all that needs no unknown response does without.
    from scipy.optimize import nnls

    density, _ = nnls(factor.T, np.linalg.solve(factor, right))
    return np.asarray(density * share)


def _share(bands: BandTable) -> FloatArray:
    """Share of the spectrum that each band stands for, as :func:`hsfuse.spectral.srf_weights` has it."""
    spacing = np.gradient(bands.centre_nm) if len(bands) > 1 else np.ones(1)
    clipped = np.clip(np.abs(spacing), 1e-3, 2.0 * bands.fwhm_nm)
    return np.asarray(clipped / clipped.mean(), dtype=np.float64)


def _explained(seen: FloatArray, y: FloatArray, kept_out: NDArray[np.bool_]) -> float:
    """Share of the variance that a prediction explains where it was not fitted; gain and offset are free."""
    told = seen[~kept_out]
    slope = float(np.cov(told, y[~kept_out])[0, 1] / max(float(told.var(ddof=1)), 1e-15))
    left = y[kept_out] - slope * seen[kept_out]
    return 1.0 - float(left.var() / max(float(y[kept_out].var()), 1e-15))


def _as_response(weights: FloatArray, bands: BandTable, name: str) -> SpectralResponse:
    density = weights / _share(bands)
    grid = np.arange(np.floor(bands.centre_nm[0]), np.ceil(bands.centre_nm[-1]) + 1.0)
    values = np.interp(grid, bands.centre_nm, density / density.max())
    return SpectralResponse(name, grid, values, "regression on the scene")
