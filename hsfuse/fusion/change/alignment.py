"""Blur and shift of a pair in which some ground differs: their derivatives are nuisance regressors of a robust fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import MAX_FWHM_PX, MAX_OFFSET_PX, MIN_FWHM_PX, Psf
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.scene_model.relation import CoarsePair, relate

_STEPS = 3
_DELTA = 0.04
_LARGEST_STEP, _CONVERGED, _GIVE_UP = 0.25, 0.004, 0.1
_EDGE_PX = 0.02


def robust_alignment(pair: CoarsePair, msi: NDArray[np.floating], ratio: int, psf: Psf) -> Calibration | None:
    """Find width and shift by Gauss-Newton steps; None where they do not converge inside their limits.

    Parameters
    ----------
    pair
        The HSI's side.
    msi
        Shape (msi band, row * ratio, col * ratio), free of NaN.
    ratio, psf
        Of the pair; the width to start from.
    """
    state = np.array([psf.fwhm_px, 0.0, 0.0])
    step = np.ones(3)
    for _ in range(_STEPS):
        derivative = np.stack([(_blurred(msi, state + d, ratio) - _blurred(msi, state - d, ratio)) / (2.0 * _DELTA)
                               for d in _DELTA * np.eye(3)], axis=1)  # fmt: skip
        found = relate(pair, _blurred(msi, state, ratio), nuisance=derivative)
        weight = found.weight / np.maximum(found.variance, 1e-20)
        precision = (derivative**2 * weight[:, None]).sum(axis=(2, 3))
        step = (precision * found.nuisance).sum(axis=0) / np.maximum(precision.sum(axis=0), 1e-30)
        state = state - np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        state[0] = np.clip(state[0], MIN_FWHM_PX - _DELTA, MAX_FWHM_PX)
        state[1:] = np.clip(state[1:], -MAX_OFFSET_PX + _DELTA, MAX_OFFSET_PX - _DELTA)
        if np.abs(step).max() < _CONVERGED:
            break
    width, row, col = (float(v) for v in state)
    inside = MIN_FWHM_PX + _EDGE_PX < width < MAX_FWHM_PX - _EDGE_PX and max(abs(row), abs(col)) < 0.5 - 2.0 * _EDGE_PX
    if np.abs(step).max() >= _GIVE_UP or not inside:
        return None
    return Calibration(Psf(round(width, 4)), (round(row, 4), round(col, 4)))


def _blurred(msi: NDArray[np.floating], state: NDArray[np.float64], ratio: int) -> NDArray[np.float64]:
    width, row, col = (float(v) for v in state)
    return Response(ratio, Psf(width), (row, col)).down(msi)
