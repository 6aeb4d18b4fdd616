"""Estimation of the HSI's point spread function and residual shift, from what the MSI shows of the same scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, uniform_filter

from hsfuse.degrade.decimation import decimate_separable
from hsfuse.degrade.psf import MAX_FWHM_PX, MIN_FWHM_PX, SEARCHED_OFFSET_PX, Psf, displaced_kernels
from hsfuse.parallel import threads_for

if TYPE_CHECKING:
    import torch

_MIN_PSF_PIXELS = 200
_MOST_WINDOWS = 8
"""Over all pairs, as far as each gets one."""


@dataclass(frozen=True)
class PsfEstimate:
    """The blur of the HSI relative to the MSI, and where its pixels lie.

    Attributes
    ----------
    fwhm_px
        Width of its PSF relative to the MSI, HSI pixels.
    offset_px
        How far (row, col) its pixels really lie towards larger index, HSI pixels.
    """

    fwhm_px: float
    offset_px: tuple[float, float]


Pair = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]
"""HSI (band, row, col), MSI (msi band, row * ratio, col * ratio; NaN where there is none), valid HSI pixels."""


def estimate_psf(
    pairs: Sequence[Pair], ratio: int, *, tolerance: float = 0.01, least_explained: float = 0.05
) -> PsfEstimate | None:
    """Return the width and the shift with which the MSI explains the HSI best; None when the pairs cannot tell.

    A coarse scan finds the start, a simplex search over width and shift (row, col) the rest.

    Parameters
    ----------
    pairs
        Parts of a scene.
    ratio
        HSI pixel size over MSI pixel size.
    tolerance
        Wanted precision, HSI pixels.
    least_explained
        Share of the HSI's detail that the MSI has to explain for the pairs to tell anything.
    """
    most = max(_MOST_WINDOWS // max(len(pairs), 1), 1)
    samples = [sample for pair in pairs for sample in _psf_samples(*pair, ratio, most)]
    if sum(int(sample.usable.sum()) for sample in samples) < _MIN_PSF_PIXELS:
        return None

    with ThreadPoolExecutor(threads_for(_MOST_WINDOWS), thread_name_prefix="hsfuse-psf") as pool:
        return _search(samples, ratio, tolerance, least_explained, pool)


def _search(
    samples: list[_PsfSample], ratio: int, tolerance: float, least_explained: float, pool: Executor
) -> PsfEstimate | None:
    bands = np.concatenate([sample.hsi for sample in samples], axis=1)
    energy = np.maximum((bands**2).sum(axis=1), 1e-30)

    low = np.array([MIN_FWHM_PX, -SEARCHED_OFFSET_PX, -SEARCHED_OFFSET_PX])
    high = np.array([MAX_FWHM_PX, SEARCHED_OFFSET_PX, SEARCHED_OFFSET_PX])

    def misfit(parameters: NDArray[np.float64]) -> float:
        inside = np.clip(parameters, low, high)
        outside = float(np.abs(parameters - inside).max())
        guide = _seen(samples, ratio, Psf(float(inside[0])), inside[1:], pool)
        return _unexplained(guide, bands, energy) + 10.0 * outside

    scan = np.linspace(MIN_FWHM_PX, MAX_FWHM_PX, 7)
    start = scan[int(np.argmin([misfit(np.array([fwhm, 0.0, 0.0])) for fwhm in scan]))]
    simplex = np.array([start, 0.0, 0.0]) + np.vstack([np.zeros(3), np.diag([0.15, 0.15, 0.15])])
    options: Any = {"initial_simplex": simplex, "xatol": tolerance, "fatol": 1e-3 * tolerance, "maxfev": 120}
    # Takes a fifth of a second to import, which plans and the command line do without.
    from scipy.optimize import minimize

    best: Any = minimize(misfit, simplex[0], method="Nelder-Mead", options=options)
    if best.fun > math.log(1.0 - least_explained):
        return None
    fwhm, *offset = (float(v) for v in np.clip(best.x, low, high))
    return PsfEstimate(round(fwhm, 3), (round(offset[0], 4), round(offset[1], 4)))


@dataclass(frozen=True)
class _PsfSample:
    """A window of a pair: HSI (band, usable pixel), MSI (1, msi band, row, col) tensor, usable coarse pixels."""

    hsi: NDArray[np.float64]
    msi: torch.Tensor
    usable: NDArray[np.bool_]


def _psf_samples(
    hsi_lr: NDArray[np.floating], msi_hr: NDArray[np.floating], valid: NDArray[np.bool_], ratio: int, most: int
) -> list[_PsfSample]:
    """Cut up to ``most`` windows with the most valid pixels; high-pass them: low frequencies know nothing of blur."""
    import torch

    rows, cols = valid.shape
    side, edge = 128, 3
    chosen = np.unique(np.linspace(0, hsi_lr.shape[0] - 1, 24).round().astype(int))
    corners = [(top, left) for top in range(0, rows, side) for left in range(0, cols, side)]
    corners.sort(key=lambda corner: -int(valid[corner[0] : corner[0] + side, corner[1] : corner[1] + side].sum()))
    samples = []
    for top, left in corners[:most]:
        mask = valid[top : top + side, left : left + side]
        hsi = np.asarray(hsi_lr[chosen, top : top + side, left : left + side], np.float64)
        fine = (slice(top * ratio, (top + mask.shape[0]) * ratio), slice(left * ratio, (left + mask.shape[1]) * ratio))
        msi = np.asarray(msi_hr[:, fine[0], fine[1]], np.float32)
        blocks = np.isfinite(msi).all(axis=0).reshape(mask.shape[0], ratio, mask.shape[1], ratio).all(axis=(1, 3))
        usable = mask & blocks & np.isfinite(hsi).all(axis=0)
        # Neither the blur nor the high pass may touch an invalid pixel or the window's edge.
        usable = binary_erosion(usable, np.ones((3, 3), bool), iterations=edge)
        if usable.sum() >= 20:
            tensor = torch.from_numpy(np.nan_to_num(msi))[None]
            samples.append(_PsfSample(_highpass(np.nan_to_num(hsi))[:, usable], tensor, usable))
    return samples


def _seen(
    samples: list[_PsfSample], ratio: int, psf: Psf, offset_px: NDArray[np.float64], pool: Executor
) -> NDArray[np.float64]:
    """The MSI blurred and high-passed at all usable pixels, shape (msi band, pixel)."""
    rows, cols = displaced_kernels(psf, ratio, (float(offset_px[0]), float(offset_px[1])))

    def seen(sample: _PsfSample) -> NDArray[np.float64]:
        blurred = decimate_separable(sample.msi, ratio, rows, cols)[0].numpy().astype(np.float64)
        return _highpass(blurred)[:, sample.usable]

    return np.concatenate(list(pool.map(seen, samples)), axis=1)


def _unexplained(guide: NDArray[np.float64], bands: NDArray[np.float64], energy: NDArray[np.float64]) -> float:
    """Mean over the bands of log(1 - R2) when the blurred MSI explains the HSI (both high-passed)."""
    gram = guide @ guide.T
    gram += 1e-9 * (np.trace(gram) + 1e-30) * np.eye(len(gram))
    cross = guide @ bands.T
    explained = (cross * np.linalg.solve(gram, cross)).sum(axis=0) / energy
    return float(np.log(np.clip(1.0 - explained, 1e-9, 1.0)).mean())


def _highpass(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean of 5 x 5 pixels from (band, row, col)."""
    mean: NDArray[np.float64] = uniform_filter(x, size=(0, 5, 5), mode="nearest")
    return x - mean
