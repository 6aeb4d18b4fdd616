"""The error of a fitted field, measured on pixels that the fit did not see.

A check point has noise of its own, often larger than the field's error; reporting its raw residual would call a good
field bad. Two things are known at every check point: the variance ``v`` of its own measurement and the variance
``p`` that the tie points' noise gives the field there. If both are right, the mean squared residual is their sum. Its
ratio to that sum calibrates them, so the field's error is ``ratio * p``; what the residuals hold beyond the noise
that cross-validation found on the tie points is a misfit of the field and is counted when it is significant.
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


@dataclass(frozen=True)
class Accuracy:
    """Error of the field's position, in the unit of the input.

    Attributes
    ----------
    rmse, p95, ce90
        Root mean square and percentiles of the planimetric error.
    bias
        Length of the mean error vector beyond what noise explains.
    count
        Check points that were used.
    raw_rmse
        Root mean square of the check points' residuals as they are, their own noise included.
    scale
        Residuals relative to their expectation (1: the stated standard errors are right).
    kept
        Which check points were used.
    """

    rmse: float
    p95: float
    ce90: float
    bias: float
    count: int
    raw_rmse: float
    scale: float
    kept: NDArray[np.bool_]


def field_accuracy(
    residual: FloatArray,
    own_variance: FloatArray,
    field_variance: FloatArray,
    typical_variance: float,
    noise_ratio: float,
) -> Accuracy | None:
    """Estimate the field's error from check points.

    Parameters
    ----------
    residual
        Check measurement minus field, shape (point, 2).
    own_variance
        Variance of one coordinate of the check measurement, shape (point,).
    field_variance
        Variance of one coordinate of the field at the check points, shape (point,).
    typical_variance
        The same, averaged over the image.
    noise_ratio
        Cross-validated residuals of the tie points relative to their standard errors.

    Returns
    -------
    Accuracy or None
        None with fewer than four check points.
    """
    distance = np.hypot(residual[:, 0], residual[:, 1])
    expected = own_variance + field_variance
    ratio = distance / np.sqrt(expected)
    usual = max(1.0, float(np.median(ratio)) / _RAYLEIGH_MEDIAN) if ratio.size else 1.0
    kept = ratio < _OUTLIER * usual
    if kept.sum() < 4:
        return None
    weight = 1.0 / expected[kept] ** 2
    weight /= weight.sum()
    square = float(weight @ distance[kept] ** 2) / 2.0
    own, field = float(weight @ own_variance[kept]), float(weight @ field_variance[kept])
    scale = square / (own + field)
    effective = 1.0 / float((weight**2).sum())
    noise = min(noise_ratio**2, 1.0) if np.isfinite(noise_ratio) else min(scale, 1.0)
    misfit = square - noise * own
    doubt = np.hypot(_SCALE_DOUBT * noise * own, square / np.sqrt(effective))
    variance = scale * typical_variance
    if misfit > 2.0 * doubt:
        variance = max(variance, misfit)
    rmse = float(np.sqrt(2.0 * variance))
    raw = float(np.sqrt(np.mean(distance[kept] ** 2)))
    shrink = rmse / raw if raw > 0 else 0.0
    mean = weight @ residual[kept]
    bias = float(np.sqrt(max(0.0, float(mean @ mean) - 2.0 * square / effective)))
    return Accuracy(
        rmse, shrink * float(np.percentile(distance[kept], 95)), shrink * float(np.percentile(distance[kept], 90)),
        min(bias, rmse), int(kept.sum()), raw, float(np.sqrt(scale)), kept,
    )  # fmt: skip
