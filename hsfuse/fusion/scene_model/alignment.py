"""Blur and shift of pairs that are too small for the search with high-passed windows.

A shift that nobody knows costs a maximum a posteriori estimate decibels, so scenes of a few hundred HSI pixels take
what the relation between guide and HSI tells: the misfit of the blurred, shifted guide, as low as it gets, with a
weak pull towards the width that was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.optimize import minimize

from hsfuse.degrade import MAX_OFFSET_PX, MIN_FWHM_PX, Psf, decimate_separable, displaced_kernels
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix, Subspace
from hsfuse.fusion.diagnostics import Calibration

_LEAST_PIXELS = 40
_WIDEST_PX = 1.8
_PULL = 20.0
"""Weight of the squared difference between the width and the one that was given."""
_EDGE_PX = 0.02


def align_small(
    strips: Sequence[LowResolutionStrip], space: Subspace, synthesis: FloatMatrix, context: FusionContext
) -> Calibration | None:
    """Search width and shift by the misfit of guide and HSI; None where even that cannot tell."""
    import torch

    ratio = context.ratio
    parts: list[tuple[torch.Tensor, NDArray[np.float64], NDArray[np.bool_]]] = []
    for strip in strips:
        if strip.fine is None:
            continue
        rows = slice(strip.fine_above * ratio, (strip.fine_above + strip.hsi.shape[1]) * ratio)
        usable = binary_erosion(strip.valid, np.ones((3, 3), bool), border_value=1)
        seen = np.tensordot(synthesis @ space.forward, strip.hsi - space.mean[:, None, None], axes=1)
        fine = torch.from_numpy(np.ascontiguousarray(np.nan_to_num(strip.fine[:, rows])))[None]
        parts.append((fine, seen[:, usable], usable))
    if sum(int(usable.sum()) for _, _, usable in parts) < _LEAST_PIXELS:
        return None

    def misfit(values: NDArray[np.float64]) -> float:
        width, *offset = (float(v) for v in values)
        if not MIN_FWHM_PX < width < _WIDEST_PX or max(map(abs, offset)) > MAX_OFFSET_PX - _EDGE_PX:
            return 1e9
        down, across = displaced_kernels(Psf(width), ratio, (offset[0], offset[1]))
        blurred = [decimate_separable(fine, ratio, down, across)[0].numpy()[:, usable] for fine, _, usable in parts]
        a, b = (
            np.concatenate(blurred, axis=1).astype(np.float64),
            np.concatenate([seen for _, seen, _ in parts], axis=1),
        )
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        power, cross = np.maximum((b * b).sum(axis=1), 1e-12), (a * b).sum(axis=1)
        left = np.maximum((a * a).sum(axis=1) - cross**2 / power, 1e-12)
        return float(np.log(left).sum() + _PULL * (width - context.psf.fwhm_px) ** 2)

    start = np.array([context.psf.fwhm_px, 0.0, 0.0])
    simplex = start + np.vstack([np.zeros(3), np.diag([0.1, 0.1, 0.1])])
    options: Any = {"initial_simplex": simplex, "xatol": 0.005, "fatol": 0.01, "maxiter": 80}
    best: Any = minimize(misfit, start, method="Nelder-Mead", options=options)
    if best.fun >= misfit(start):
        return None
    width, row, col = (float(v) for v in best.x)
    return Calibration(Psf(round(width, 3)), (round(row, 4), round(col, 4)))
