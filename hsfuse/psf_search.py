"""Search for the width of the HSI's point spread function; see :func:`hsfuse.degrade.estimate_psf`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, uniform_filter
from scipy.optimize import minimize

from hsfuse.degrade import MAX_FWHM_PX, MIN_FWHM_PX, Psf, decimate_separable, psf_kernel

if TYPE_CHECKING:
    import torch

_MIN_PSF_PIXELS, _MIN_PSF_TEXTURE = 200, math.log(0.95)


def search_fwhm_px(
    hsi_lr: NDArray[np.floating], msi_hr: NDArray[np.floating], valid: NDArray[np.bool_], ratio: int
) -> float | None:
    """Return the width that explains the HSI best, in HSI pixels; None when the pair cannot tell.

    A coarse scan finds the start, a simplex search over width and shift (row, col) the rest.
    """
    samples = _psf_samples(hsi_lr, msi_hr, valid, ratio)
    if sum(int(sample.usable.sum()) for sample in samples) < _MIN_PSF_PIXELS:
        return None

    def misfit(parameters: NDArray[np.float64]) -> float:
        low, high = np.array([MIN_FWHM_PX, -0.5, -0.5]), np.array([MAX_FWHM_PX, 0.5, 0.5])
        inside = np.clip(parameters, low, high)
        outside = float(np.abs(parameters - inside).max())
        return _unexplained(samples, ratio, Psf(float(inside[0])), inside[1:]) + 10.0 * outside

    scan = np.linspace(MIN_FWHM_PX, MAX_FWHM_PX, 7)
    start = scan[int(np.argmin([misfit(np.array([fwhm, 0.0, 0.0])) for fwhm in scan]))]
    simplex = np.array([start, 0.0, 0.0]) + np.vstack([np.zeros(3), np.diag([0.15, 0.15, 0.15])])
    options: Any = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-5, "maxfev": 90}
    best: Any = minimize(misfit, simplex[0], method="Nelder-Mead", options=options)
    if best.fun > _MIN_PSF_TEXTURE:
        return None
    return round(float(np.clip(best.x[0], MIN_FWHM_PX, MAX_FWHM_PX)), 3)


@dataclass(frozen=True)
class _PsfSample:
    """A window of a pair: HSI (band, row, col), MSI (1, msi band, row, col) tensor, usable coarse pixels."""

    hsi: NDArray[np.float64]
    msi: torch.Tensor
    usable: NDArray[np.bool_]


def _psf_samples(
    hsi_lr: NDArray[np.floating], msi_hr: NDArray[np.floating], valid: NDArray[np.bool_], ratio: int
) -> list[_PsfSample]:
    """Cut up to 8 windows with the most valid pixels, and high-pass them (low frequencies know nothing of blur)."""
    import torch

    rows, cols = valid.shape
    side, edge = 128, 3
    chosen = np.unique(np.linspace(0, hsi_lr.shape[0] - 1, 24).round().astype(int))
    corners = [(top, left) for top in range(0, rows, side) for left in range(0, cols, side)]
    corners.sort(key=lambda corner: -int(valid[corner[0] : corner[0] + side, corner[1] : corner[1] + side].sum()))
    samples = []
    for top, left in corners[:8]:
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


def _unexplained(samples: list[_PsfSample], ratio: int, psf: Psf, offset_px: NDArray[np.float64]) -> float:
    """Mean over the bands of log(1 - R2) when the blurred MSI explains the HSI (both high-passed)."""
    kernels = [tuple(psf_kernel(psf, ratio, offset_px=float(offset))) for offset in offset_px]
    taps = max(len(kernel) for kernel in kernels)
    rows, cols = (tuple(np.pad(kernel, (taps - len(kernel)) // 2)) for kernel in kernels)
    blurred = [decimate_separable(sample.msi, ratio, rows, cols)[0].numpy().astype(np.float64) for sample in samples]
    guide = np.concatenate([_highpass(b)[:, s.usable] for b, s in zip(blurred, samples, strict=True)], axis=1)
    bands = np.concatenate([sample.hsi for sample in samples], axis=1)
    gram = guide @ guide.T
    gram += 1e-9 * (np.trace(gram) + 1e-30) * np.eye(len(gram))
    cross = guide @ bands.T
    energy = np.maximum((bands**2).sum(axis=1), 1e-30)
    explained = (cross * np.linalg.solve(gram, cross)).sum(axis=0) / energy
    return float(np.log(np.clip(1.0 - explained, 1e-9, 1.0)).mean())


def _highpass(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean of 5 x 5 pixels from (band, row, col)."""
    mean: NDArray[np.float64] = uniform_filter(x, size=(0, 5, 5), mode="nearest")
    return x - mean
