"""Ridge regression of the guide on the HSI's components, drawn towards what the spectral responses say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RIDGE, BLIND_RIDGE = 0.3, 1e-3
"""Ridge relative to the HSI's mean variance, with and without known responses to draw towards."""


def ridge_synthesis(
    components: FloatArray, msi: FloatArray, level: FloatArray, responses: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Plain ridge regression of the MSI on the components of trusted pixels.

    Parameters
    ----------
    components, msi
        Shapes (component, sample) and (msi band, sample).
    level
        As in :class:`hsfuse.fusion.scene_model.relation.CoarsePair`.
    responses
        ``srf @ back``, shape (msi band, component): where it is not 0 the ridge draws towards it, with a gain.

    Returns
    -------
    synthesis, mean, uncertainty : numpy.ndarray
        Shapes (msi band, component), (msi band,), and the standard errors of the synthesis in its shape.
    """
    count, rank = components.shape[1], len(components)
    u_mean, y_mean = components.mean(axis=1), msi.mean(axis=1)
    u, y = components - u_mean[:, None], msi - y_mean[:, None]
    inner, cross = u @ u.T / count, y @ u.T / count
    start, ridge = np.zeros_like(cross), np.full(len(y), BLIND_RIDGE)
    if responses is not None:
        known = np.abs(responses).sum(axis=1) > 0
        start[known], ridge[known] = responses[known], RIDGE
        power = np.maximum(np.einsum("bk,kl,bl->b", start, inner, start), 1e-12)
        start *= (np.einsum("bk,bk->b", cross, start) / power)[:, None]
    synthesis = start.copy()
    for band in range(len(y)):
        loading = np.eye(rank) + ridge[band] * level
        synthesis[band] += np.linalg.solve(inner + loading, cross[band] - inner @ start[band])
    left = ((y - synthesis @ u) ** 2).mean(axis=1)
    spread = np.diag(np.linalg.inv(count * (inner + np.eye(rank))))
    return synthesis, y_mean - synthesis @ u_mean, np.sqrt(np.outer(left, spread))
