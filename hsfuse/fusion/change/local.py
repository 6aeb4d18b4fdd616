"""Local affine correction of the guide: seasons, sun angles and sensors change bands together.

In Gaussian windows the difference between what the HSI shows and what the blurred guide shows is regressed on all
bands of the guide, or in smaller ones on the same band alone, or is told by a pattern that the whole scene shares
(:mod:`hsfuse.fusion.change.pattern`). All of these are weighed place by place by their leave-one-out errors; without a
clear gain nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from hsfuse.fusion.change.candidates import Candidates
from hsfuse.fusion.change.pattern import ScenePattern
from hsfuse.fusion.change.response import Response
from hsfuse.native import affine
from hsfuse.parallel import side_by_side, threads_for

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]

CANDIDATES = ((2.0, 0.03), (2.0, 0.3), (4.0, 0.1))
"""Width of the window (standard deviation, HSI pixels) and ridge in pseudo-pixels."""
GAIN_CANDIDATE = (0.9, 0.1)
"""The same for a gain of each band alone, of which a smaller window tells enough."""
LEAST_GAIN, LEAST_BLIND_GAIN = 0.8, 0.6
"""The leave-one-out error must fall to this share of what it was, with the MSI's responses and without: then windows
correct the relation rather than the guide. The latter also where images are displaced locally."""
_CHOICE_PX, _DECISIVENESS = 2.0, 4.0
"""Width of the window that errors are compared in, and how much the better candidate is preferred there: their errors
are partly independent, so a mean of good ones is better than the best. On fourteen tuning cubes (two seeds) mixes of
changes gain 0.04 to 0.06 dB outside over 8, seasons 0.01 to 0.02 dB."""
_MOST_OWN = 0.95
"""Of a pixel's own part in what is fitted to it, at most."""
_AT_ONCE = 65_536
"""Pixels that are solved for together."""
_REACH = 4.0
"""Of the windows, in standard deviations."""
_SOME_PIXELS = 200_000
"""Of images that candidates are tried on side by side."""

Regression = Callable[[FloatArray, FloatArray, FloatArray, float, float], tuple[FloatArray, FloatArray]]
"""See :func:`local_affine`."""


@dataclass(frozen=True)
class Correction:
    """What to add to a guide.

    Attributes
    ----------
    matrix
        Matrix and constant at each pixel, shape (msi band, msi band + 1, row, col) on the coarse grid.
    pattern
        That of the scene, with its share and its share times its amplitude, shape (row, col); None without one.
    error
        Mean square of the leave-one-out errors by band on judged ground, shape (msi band,).
    candidates
        What it was chosen from; None where nobody asks.
    """

    matrix: FloatCube
    pattern: tuple[ScenePattern, FloatArray, FloatArray] | None
    error: FloatArray
    candidates: Candidates | None = None

    def apply(self, guide: FloatCube, response: Response) -> FloatCube:
        """Return a corrected guide, shape (msi band, row, col)."""
        bands = len(guide)
        corrected = guide.copy()
        for band in range(bands):
            corrected[band] += response.up_single(self.matrix[band, bands][None])[0]
            for other in range(bands):
                corrected[band] += response.up_single(self.matrix[band, other][None])[0] * guide[other]
        if self.pattern is not None:
            pattern, *images = self.pattern
            pattern.add_to(corrected, guide, *(response.up_single(image[None])[0] for image in images))
        return corrected


def best_correction(
    seen: FloatArray,
    guide: FloatArray,
    noise: FloatArray,
    weight: FloatArray,
    least_gain: float,
    judged: FloatArray,
    *,
    small: bool,
    pattern: tuple[ScenePattern, FloatCube] | None = None,
    keep: bool = False,
) -> Correction | None:
    """Return the correction of a guide at low resolution, or None where none is clearly better.

    Parameters
    ----------
    seen
        What the HSI shows of the MSI bands, shape (msi band, row, col).
    guide
        The MSI at low resolution, the same shape.
    noise
        Variance that differences are measured in, shape (msi band,).
    weight
        Trust in each pixel, shape (row, col).
    least_gain
        Share of the error that must not be exceeded.
    judged
        Weight of each pixel in that comparison, shape (row, col).
    small
        Whether small windows are tried too.
    pattern
        That of the scene, which is tried too, with its functions as the HSI blurs them, shape (function, row, col).
    keep
        Whether to return :class:`Candidates` where there is a pattern.
    """
    scale = noise[:, None, None]

    def loss(error: FloatArray) -> FloatArray:
        return np.asarray((error**2 / scale).mean(axis=0))

    before = seen - guide
    errors, corrections = [before], []
    tried: list[tuple[Regression, float, float]] = [(local_affine, *candidate) for candidate in CANDIDATES]
    if small:
        tried.append((local_gain, *GAIN_CANDIDATE))

    def found(candidate: tuple[Regression, float, float]) -> tuple[FloatCube, FloatArray]:
        regress, sigma, ridge = candidate
        correction, error = regress(seen, guide, weight, sigma, ridge)
        return correction.astype(np.float32), error

    # Of whole scenes, one at a time: they are large.
    beside = threads_for(len(tried)) if weight.size <= _SOME_PIXELS else 1
    for correction, error in side_by_side(found, tried, beside):
        errors.append(error)
        corrections.append(correction)
    if pattern is not None:
        amplitude, error = pattern[0].amplitude(pattern[1], before, noise, weight)
        errors.append(error)
    share = shares_by_error([loss(error) for error in errors], weight, _CHOICE_PX, _DECISIVENESS)
    blended = np.asarray(sum(part * error for part, error in zip(share, errors, strict=True)))
    if (loss(blended) * judged).sum() >= least_gain * (loss(before) * judged).sum():
        return None
    linear = share[1 : len(corrections) + 1]
    matrix = sum(part.astype(np.float32) * each for part, each in zip(linear, corrections, strict=True))
    chosen = None if pattern is None else (pattern[0], share[-1], share[-1] * amplitude)
    candidates = None
    if keep and pattern is not None:
        # The residuals are left out ones: what they lack of the difference is what the correction adds, nearly.
        direction = _main_direction((before - blended) / np.sqrt(scale), weight) / np.sqrt(noise)
        for place, each in enumerate(corrections):  # each in place of what it follows from: images of the whole scene
            corrections[place] = np.tensordot(direction, each, axes=1).astype(np.float32)
        along = pattern[0].along(direction)
        candidates = Candidates(
            direction * np.sqrt(noise), np.stack(corrections), (along, amplitude.astype(np.float32))
        )
    error = (blended**2 * judged).sum(axis=(1, 2)) / judged.sum()
    return Correction(np.asarray(matrix), chosen, error, candidates)


def _main_direction(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Direction in which vectors (msi band, row, col) are largest, shape (msi band,); towards their mean."""
    flat, trust = x.reshape(len(x), -1), weight.ravel()
    direction = np.linalg.eigh((flat * trust) @ flat.T)[1][:, -1]
    return np.asarray(direction if float(direction @ flat @ trust) >= 0.0 else -direction)


def shares_by_error(
    losses: Sequence[FloatArray], weight: FloatArray, width_px: float, decisiveness: float
) -> FloatArray:  # fmt: skip
    """Weigh candidates place by place by their errors.

    Parameters
    ----------
    losses
        Squared error of each, the first without any correction, shape (row, col).
    weight
        Trust in each pixel, shape (row, col).
    width_px
        Width of the window that errors are compared in.
    decisiveness
        How much the better candidate is preferred: the exponent of the errors' ratio.

    Returns
    -------
    numpy.ndarray
        Shares, of sum 1, shape (candidate, row, col).
    """
    local = np.stack([window_mean(loss * weight, width_px) for loss in losses])
    share = (local + 1e-3 * local[0].mean()) ** -decisiveness
    return np.asarray(share / share.sum(axis=0))


def local_affine(
    seen: FloatArray, guide: FloatArray, weight: FloatArray, sigma: float, ridge: float,
    where: NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Regress ``seen - guide`` on the guide's bands and 1 in Gaussian windows; elsewhere than ``where``, nothing.

    Returns
    -------
    correction : numpy.ndarray
        Shape (msi band, msi band + 1, row, col).
    error : numpy.ndarray
        Leave-one-out residuals, shape (msi band, row, col).
    """
    bands, rows, cols = guide.shape
    total = weight.sum()
    mean = (guide * weight).sum(axis=(1, 2)) / total
    spread = np.sqrt(np.maximum(((guide - mean[:, None, None]) ** 2 * weight).sum(axis=(1, 2)) / total, 1e-20))
    z = np.concatenate([(guide - mean[:, None, None]) / spread[:, None, None], np.ones((1, rows, cols))])
    target = np.ascontiguousarray(seen - guide)
    correction, error = np.zeros((bands, bands + 1, rows, cols)), target.copy()
    loading = ridge / (2.0 * np.pi * sigma**2)
    if not affine.local_affine(
        z, target, np.ascontiguousarray(weight), None if where is None else np.ascontiguousarray(where),
        _kernel(sigma), loading, _centre_weight(sigma), correction, error,
    ):  # fmt: skip
        _plain_affine(z, target, weight, where, sigma, loading, correction, error)
    correction[:, :bands] /= spread[None, :, None, None]
    correction[:, bands] -= np.einsum("bprc,p->brc", correction[:, :bands], mean)
    return correction, error


def _plain_affine(
    z: FloatArray, target: FloatArray, weight: FloatArray, where: NDArray[np.bool_] | None, sigma: float,
    loading: float, correction: FloatArray, error: FloatArray,
) -> None:  # fmt: skip
    """:func:`hsfuse.native.affine.local_affine` in NumPy."""
    size, rows, cols = z.shape
    bands = len(target)
    gram = np.empty((size, size, rows, cols))
    for i in range(size):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = window_mean(z[i] * z[j] * weight, sigma)
    cross = np.stack([np.stack([window_mean(z[i] * y * weight, sigma) for y in target]) for i in range(size)])
    own = _centre_weight(sigma)
    flat, left = correction.reshape(bands, size, -1), error.reshape(bands, -1)
    asked = None if where is None else np.flatnonzero(where)
    count = rows * cols if asked is None else asked.size
    for start in range(0, count, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, count))
        at = part if asked is None else asked[part]
        zs = z.reshape(size, -1)[:, at].T
        right = np.concatenate([cross.reshape(size, bands, -1)[:, :, at].transpose(2, 0, 1), zs[:, :, None]], axis=2)
        matrices = gram.reshape(size, size, -1)[:, :, at].transpose(2, 0, 1) + loading * np.eye(size)
        solved = np.linalg.solve(matrices, right)
        hat = np.minimum(own * weight.ravel()[at] * (zs * solved[:, :, bands]).sum(axis=1), _MOST_OWN)
        y = left[:, at]
        fitted = np.einsum("np,npb->bn", zs, solved[:, :, :bands])
        left[:, at] = y - (fitted - hat * y) / (1.0 - hat)
        flat[:, :, at] = solved[:, :, :bands].transpose(2, 1, 0)


def local_gain(
    seen: FloatArray, guide: FloatArray, weight: FloatArray, sigma: float, ridge: float
) -> tuple[FloatArray, FloatArray]:
    """Regress ``seen - guide`` on the same band of the guide in Gaussian windows; as :func:`local_affine`."""
    bands = len(guide)
    own = _centre_weight(sigma)
    correction = np.zeros((bands, bands + 1, *guide.shape[1:]))
    error = np.empty_like(guide)
    for band, (image, wanted) in enumerate(zip(guide, seen - guide, strict=True)):
        loading = ridge / (2.0 * np.pi * sigma**2) * max(float((image**2 * weight).sum() / weight.sum()), 1e-20)
        power = window_mean(image**2 * weight, sigma) + loading
        gain = window_mean(image * wanted * weight, sigma) / power
        hat = np.minimum(own * weight * image**2 / power, _MOST_OWN)
        error[band] = (wanted - gain * image) / (1.0 - hat)
        correction[band, band] = gain
    return correction, error


def window_mean(x: FloatArray, sigma: float) -> FloatArray:
    """Return a weighted mean of the pixels around each one, shape (row, col); outside there is nothing."""
    return np.asarray(gaussian_filter(x, sigma, mode="constant", truncate=_REACH))


def _centre_weight(sigma: float) -> float:
    """Weight of a pixel in its own Gaussian window."""
    return float(_kernel(sigma)[0] ** 2)


@cache
def _kernel(sigma: float) -> FloatArray:
    """Weights of :func:`window_mean` along an axis, from the middle on."""
    side = int(_REACH * sigma + 0.5)
    impulse = np.zeros(2 * side + 1)
    impulse[side] = 1.0
    return np.ascontiguousarray(gaussian_filter1d(impulse, sigma, mode="constant", truncate=_REACH)[side:])
