"""Blur and shift by the relation between guide and HSI: their derivatives are nuisance regressors of a robust fit.

The search with high-passed windows needs a few hundred HSI pixels and a guide of the same day. This one takes what the
relation tells, so it works on pairs that are small, and on pairs in which some ground differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import (
    MAX_FWHM_PX,
    MAX_OFFSET_PX,
    MIN_FWHM_PX,
    Psf,
    decimate_separable,
    displaced_kernels,
)
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.fusion.scene_model.relation import relate

_STEPS = 8
"""At most; where the pair is nearly right two or three do."""
_DELTA = 0.04
_LARGEST_STEP, _CONVERGED, _GIVE_UP = 0.25, 0.004, 0.1
_EDGE_PX = 0.02
_PIXELS_PER_COMPONENT, _LEAST_PIXELS = 4, 36
"""A small window is told by its leading components alone; a smaller one by none."""

Blurred = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""The guide at low resolution, shape (msi band, row, col), for a width and a shift (row, col), HSI pixels."""


def robust_alignment(pair: CoarsePair, msi: NDArray[np.floating], ratio: int, psf: Psf) -> Calibration | None:
    """Find width and shift of a window of a scene; None where the search does not converge inside its limits.

    Parameters
    ----------
    pair
        The HSI's side.
    msi
        Shape (msi band, row * ratio, col * ratio), free of NaN.
    ratio, psf
        Of the pair; the width to start from.
    """
    told = _tellable(pair)
    return None if told is None else _search(told, lambda state: _blurred(msi, state, ratio), psf)


def align_strips(pair: CoarsePair, strips: Sequence[LowResolutionStrip], ratio: int, psf: Psf) -> Calibration | None:
    """Find width and shift of the strips of a small scene, stacked as ``pair`` is; None where these cannot tell."""
    parts = [np.nan_to_num(fine) for strip in strips if (fine := strip.below(ratio)) is not None]
    if len(parts) < len(strips):
        return None
    # What lies beside a gap looks at what was filled in there.
    valid = np.concatenate([binary_erosion(strip.valid, np.ones((3, 3), bool), border_value=1) for strip in strips])
    told = _tellable(CoarsePair(pair.components, pair.predicted, pair.level, np.asarray(valid, dtype=np.bool_)))
    if told is None:
        return None
    return _search(told, lambda state: np.concatenate([_blurred(part, state, ratio) for part in parts], axis=1), psf)


def _tellable(pair: CoarsePair) -> CoarsePair | None:
    """Leave as many components as the pixels can tell coefficients of; None where these are too few for any."""
    pixels = int(pair.valid.sum())
    if pixels < _LEAST_PIXELS:
        return None
    most = min(len(pair.components), pixels // _PIXELS_PER_COMPONENT)
    return CoarsePair(pair.components[:most], pair.predicted, pair.level[:most, :most], pair.valid)


def _search(pair: CoarsePair, blurred: Blurred, psf: Psf) -> Calibration | None:
    """Gauss-Newton steps from the given width and no shift."""
    state = np.array([psf.fwhm_px, 0.0, 0.0])
    step = np.ones(3)
    for _ in range(_STEPS):
        derivative = np.stack(
            [(blurred(state + d) - blurred(state - d)) / (2.0 * _DELTA) for d in _DELTA * np.eye(3)], axis=1
        )
        found = relate(pair, blurred(state), nuisance=derivative)
        weight = found.weight / np.maximum(found.variance, 1e-20)
        precision = (derivative**2 * weight[:, None]).sum(axis=(2, 3))
        step = (precision * found.nuisance).sum(axis=0) / np.maximum(precision.sum(axis=0), 1e-30)
        state = state - np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        state[0] = np.clip(state[0], MIN_FWHM_PX - _DELTA, MAX_FWHM_PX)
        state[1:] = np.clip(state[1:], -MAX_OFFSET_PX + _DELTA, MAX_OFFSET_PX - _DELTA)
        if np.abs(step).max() < _CONVERGED:
            break
    width, row, col = (float(v) for v in state)
    inside = (
        MIN_FWHM_PX + _EDGE_PX < width < MAX_FWHM_PX - _EDGE_PX
        and max(abs(row), abs(col)) < MAX_OFFSET_PX - _DELTA - _EDGE_PX
    )
    if np.abs(step).max() >= _GIVE_UP or not inside:
        return None
    return Calibration(Psf(round(width, 4)), (round(row, 4), round(col, 4)))


def _blurred(msi: NDArray[np.floating], state: NDArray[np.float64], ratio: int) -> NDArray[np.float64]:
    import torch

    width, row, col = (float(v) for v in state)
    fine = torch.from_numpy(np.ascontiguousarray(msi, dtype=np.float32))[None]
    kernels = displaced_kernels(Psf(width), ratio, (row, col))
    return np.asarray(decimate_separable(fine, ratio, *kernels)[0].numpy(), np.float64)
