"""Estimation of the HSI's point spread function and residual shift, from what the MSI shows of the same scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, uniform_filter

from hsfuse.degrade.decimation import decimate_separable
from hsfuse.degrade.psf import MAX_FWHM_PX, MIN_FWHM_PX, SEARCHED_OFFSET_PX, Psf, displaced_kernels
from hsfuse.degrade.simplex import FloatArray, minimise
from hsfuse.parallel import side_by_side, threads_for

if TYPE_CHECKING:
    import torch

_MIN_PSF_PIXELS, _MIN_WINDOW_PIXELS = 200, 20
_SIDE_PX, _EDGE_PX = 128, 3
_MOST_WINDOWS = 8
"""Over all pairs, as far as each gets one."""
_POINTS_AT_ONCE = 4
"""That a step of the search may need."""
_LIMITS = (
    np.array([MIN_FWHM_PX, -SEARCHED_OFFSET_PX, -SEARCHED_OFFSET_PX]),
    np.array([MAX_FWHM_PX, SEARCHED_OFFSET_PX, SEARCHED_OFFSET_PX]),
)


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


_Kernels = tuple[tuple[float, ...], tuple[float, ...]]
"""Weights of a blur down the rows and along the columns."""
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
    places = [(pair, place) for pair in pairs for place in places_of(pair[2], most)]
    cut = side_by_side(lambda piece: _sample(*piece[0], *piece[1], ratio), places, threads_for(_MOST_WINDOWS))
    samples = [sample for sample in cut if sample is not None]
    if sum(sample.usable.size for sample in samples) < _MIN_PSF_PIXELS:
        return None

    threads = threads_for(_POINTS_AT_ONCE * len(samples))
    with ThreadPoolExecutor(threads, thread_name_prefix="hsfuse-psf") as pool:
        return _search(_Misfit(samples, ratio, pool), tolerance, least_explained, ahead=threads > 2 * len(samples))


def _search(misfit: _Misfit, tolerance: float, least_explained: float, *, ahead: bool) -> PsfEstimate | None:
    """Scan and search; ``ahead``: there are threads to look at points that may not be needed."""
    scan = np.linspace(MIN_FWHM_PX, MAX_FWHM_PX, 7)
    start = scan[int(np.argmin(misfit.at([np.array([fwhm, 0.0, 0.0]) for fwhm in scan])))]
    simplex = np.array([start, 0.0, 0.0]) + np.vstack([np.zeros(3), np.diag([0.15, 0.15, 0.15])])
    best, value = minimise(misfit.at, simplex, size=tolerance, spread=1e-3 * tolerance, most=120, ahead=ahead)
    if value > math.log(1.0 - least_explained):
        return None
    fwhm, *offset = (float(v) for v in np.clip(best, *_LIMITS))
    return PsfEstimate(round(fwhm, 3), (round(offset[0], 4), round(offset[1], 4)))


@dataclass(frozen=True)
class _PsfSample:
    """A window of a pair: HSI (band, usable pixel), MSI (1, msi band, row, col) tensor, numbers of usable pixels."""

    hsi: NDArray[np.float64]
    msi: torch.Tensor
    usable: NDArray[np.int64]


def places_of(valid: NDArray[np.bool_], most: int) -> list[tuple[int, int]]:
    """Corners of up to ``most`` windows with the most valid pixels."""
    rows, cols = valid.shape
    corners = [(top, left) for top in range(0, rows, _SIDE_PX) for left in range(0, cols, _SIDE_PX)]
    corners.sort(
        key=lambda corner: -int(valid[corner[0] : corner[0] + _SIDE_PX, corner[1] : corner[1] + _SIDE_PX].sum())
    )
    return corners[:most]


def _sample(
    hsi_lr: NDArray[np.floating],
    msi_hr: NDArray[np.floating],
    valid: NDArray[np.bool_],
    top: int,
    left: int,
    ratio: int,
) -> _PsfSample | None:
    """Cut a window and high-pass it: low frequencies know nothing of blur; None where too little of it is valid."""
    import torch

    chosen = np.unique(np.linspace(0, hsi_lr.shape[0] - 1, 24).round().astype(int))
    mask = valid[top : top + _SIDE_PX, left : left + _SIDE_PX]
    hsi = np.asarray(hsi_lr[chosen, top : top + _SIDE_PX, left : left + _SIDE_PX], np.float64)
    fine = (slice(top * ratio, (top + mask.shape[0]) * ratio), slice(left * ratio, (left + mask.shape[1]) * ratio))
    msi = np.asarray(msi_hr[:, fine[0], fine[1]], np.float32)
    blocks = np.isfinite(msi).all(axis=0).reshape(mask.shape[0], ratio, mask.shape[1], ratio).all(axis=(1, 3))
    usable = mask & blocks & np.isfinite(hsi).all(axis=0)
    # Neither the blur nor the high pass may touch an invalid pixel or the window's edge.
    usable = binary_erosion(usable, np.ones((3, 3), bool), iterations=_EDGE_PX)
    index = np.flatnonzero(usable)
    if index.size < _MIN_WINDOW_PIXELS:
        return None
    return _PsfSample(_at(highpass(np.nan_to_num(hsi)), index), torch.from_numpy(np.nan_to_num(msi))[None], index)


def _at(image: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Some pixels of (band, row, col), shape (band, pixel)."""
    return image.reshape(len(image), -1).take(index, axis=1)


class _Misfit:
    """Mean over the bands of log(1 - R2) when the MSI, blurred and shifted, explains the HSI (both high-passed).

    Parameters
    ----------
    samples
        Windows.
    ratio
        HSI pixel size over MSI pixel size.
    pool
        Looks at windows and points side by side.
    """

    def __init__(self, samples: list[_PsfSample], ratio: int, pool: Executor) -> None:
        self._samples, self._ratio, self._pool = samples, ratio, pool
        self._energy = np.maximum(sum((sample.hsi**2).sum(axis=1) for sample in samples), 1e-30)

    def at(self, points: Sequence[FloatArray]) -> list[float]:
        """Return the misfit at points (width, shift along rows and columns); beyond the limits it rises steeply."""
        inside = [np.clip(point, *_LIMITS) for point in points]
        # Once for all windows: making kernels holds the interpreter's lock, filtering with them does not.
        pieces = list(product([self._kernels(point) for point in inside], self._samples))
        moments = list(self._pool.map(self._moments, *zip(*pieces, strict=True)))
        count = len(self._samples)
        return [
            self._unexplained(moments[number * count : (number + 1) * count])
            + 10.0 * float(np.abs(point - inside[number]).max())
            for number, point in enumerate(points)
        ]

    def _kernels(self, point: FloatArray) -> _Kernels:
        width, down, across = (float(value) for value in point)
        return displaced_kernels(Psf(width), self._ratio, (down, across))

    def _moments(self, kernels: _Kernels, sample: _PsfSample) -> tuple[FloatArray, FloatArray]:
        """Products of the MSI's bands, as the HSI would see them, with each other and with the HSI's."""
        blurred = decimate_separable(sample.msi, self._ratio, *kernels)[0].numpy().astype(np.float64)
        guide = _at(highpass(blurred), sample.usable)
        return guide @ guide.T, guide @ sample.hsi.T

    def _unexplained(self, moments: Sequence[tuple[FloatArray, FloatArray]]) -> float:
        gram, cross = (np.sum(parts, axis=0) for parts in zip(*moments, strict=True))
        gram += 1e-9 * (np.trace(gram) + 1e-30) * np.eye(len(gram))
        explained = (cross * np.linalg.solve(gram, cross)).sum(axis=0) / self._energy
        return float(np.log(np.clip(1.0 - explained, 1e-9, 1.0)).mean())


def highpass(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean of 5 x 5 pixels from (band, row, col)."""
    mean: NDArray[np.float64] = uniform_filter(x, size=(0, 5, 5), mode="nearest")
    return x - mean
