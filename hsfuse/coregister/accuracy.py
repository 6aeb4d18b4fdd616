"""The error of a fitted field, judged on pixels that the fit did not see.

A check point has noise of its own, often larger than the field's error; reporting its raw residual would call a good
field bad. What is reported is the error that the field's uncertainty states (see uncertainty.py), and the check points
decide whether it may be believed: their residuals must not be larger than their own noise and the stated error
explain. What they hold beyond that is a misfit of the field, and is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.models import FloatArray

_OUTLIER = 5.0
_RAYLEIGH_MEDIAN = 1.1774
_SCALE_DOUBT = 0.15
"""How far the scale of the check points' own noise may be off (relative)."""
_FEWEST = 4


@dataclass(frozen=True)
class Accuracy:
    """Error of the field's position, in the unit of the input.

    Attributes
    ----------
    rmse, p95, ce90
        Root mean square and percentiles of the planimetric error over the image.
    bias
        Length of the check points' mean error vector beyond what noise explains.
    count
        Check points that were used.
    raw_rmse
        Root mean square of the check points' residuals as they are, their own noise included.
    misfit
        Root mean square error that was added because the check points proved it.
    scale
        Residuals of the check points relative to their expectation (1: the stated errors are right).
    kept
        Which check points were used.
    """

    rmse: float
    p95: float
    ce90: float
    bias: float
    count: int
    raw_rmse: float
    misfit: float
    scale: float
    kept: NDArray[np.bool_]


def field_accuracy(
    residual: FloatArray,
    own_variance: FloatArray,
    field_variance: FloatArray,
    over_image: FloatArray,
    *,
    least_misfit: float = 0.0,
) -> Accuracy:
    """Estimate the field's error over the image.

    Parameters
    ----------
    residual
        Check measurement minus field, shape (point, 2); may hold no points.
    own_variance
        Variance of one coordinate of the check measurement, shape (point,).
    field_variance
        Variance of one coordinate of the field at the check points, shape (point,).
    over_image
        The same at positions spread evenly over the image.
    least_misfit
        Variance of one coordinate that something else than the check points proves.
    """
    distance = np.hypot(residual[:, 0], residual[:, 1])
    expected = own_variance + field_variance
    ratio = distance / np.sqrt(expected)
    usual = max(1.0, float(np.median(ratio)) / _RAYLEIGH_MEDIAN) if ratio.size else 1.0
    kept = ratio < _OUTLIER * usual
    misfit = raw = bias = 0.0
    scale = float("nan")
    if kept.sum() >= _FEWEST:
        weight = 1.0 / expected[kept] ** 2
        weight /= weight.sum()
        square = float(weight @ distance[kept] ** 2) / 2.0
        own, field = float(weight @ own_variance[kept]), float(weight @ field_variance[kept])
        effective = 1.0 / float((weight**2).sum())
        beyond = square - own - field
        if beyond > 2.0 * np.hypot(_SCALE_DOUBT * own, (own + field) / np.sqrt(effective)):
            misfit = beyond
        scale, raw = float(np.sqrt(square / (own + field))), float(np.sqrt(np.mean(distance[kept] ** 2)))
        mean = weight @ residual[kept]
        bias = float(np.sqrt(max(0.0, float(mean @ mean) - 2.0 * square / effective)))
    misfit = max(misfit, least_misfit)
    variance = over_image + misfit
    rmse = float(np.sqrt(2.0 * variance.mean()))
    p95, ce90 = _percentiles(variance, (0.95, 0.90))
    return Accuracy(
        rmse, p95, ce90, min(bias, rmse), int(kept.sum()), raw, float(np.sqrt(2.0 * misfit)), scale, kept
    )  # fmt: skip


def _percentiles(variance: FloatArray, shares: tuple[float, ...]) -> list[float]:
    """Percentiles of the length of a normal vector whose variance differs over the image."""
    lengths = np.sqrt(variance.max()) * np.linspace(0.0, 6.0, 1201)
    above = np.exp(-(lengths[:, None] ** 2) / (2.0 * np.maximum(variance, 1e-12)[None, :])).mean(axis=1)
    return [float(np.interp(1.0 - share, above[::-1], lengths[::-1])) for share in shares]
