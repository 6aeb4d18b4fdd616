"""Local affine correction of the guide: seasons, sun angles and sensors change bands together.

In Gaussian windows the difference between what the HSI shows and what the blurred guide shows is regressed on all
bands of the guide, or in smaller ones on the same band alone, or is told by a pattern that the whole scene shares
(:mod:`hsfuse.fusion.change.pattern`). All of these are weighed place by place by their leave-one-out errors; without a
clear gain nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from hsfuse.degrade.windows import row_parts, rows_around, rows_inside
from hsfuse.fusion.change.candidates import Candidates, add_affine
from hsfuse.fusion.change.pattern import ScenePattern
from hsfuse.fusion.change.response import INTERPOLATION_PX, Response
from hsfuse.grid import Slice2D
from hsfuse.native import affine
from hsfuse.spilled import SpilledImages

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]

_APPLIED_ROWS = 32
"""HSI rows that a correction is applied to at a time."""
_MOST_OWN = 0.95
"""Of a pixel's own part in what is fitted to it, at most."""
_AT_ONCE = 65_536
"""Pixels that are solved for together."""
_REACH = 4.0
"""Of the windows, in standard deviations."""


@dataclass(frozen=True)
class Correction:
    """What to add to a guide.

    Attributes
    ----------
    matrix
        Matrix and constant at each pixel, of one band after the other, shape (msi band * (msi band + 1), row, col) on
        the coarse grid.
    pattern
        That of the scene, with its share and its share times its amplitude, shape (row, col); None without one.
    error
        Mean square of the leave-one-out errors by band on judged ground, shape (msi band,).
    candidates
        What it was chosen from; None where nobody asks.
    """

    matrix: SpilledImages
    pattern: tuple[ScenePattern, FloatArray, FloatArray] | None
    error: FloatArray
    candidates: Candidates | None = None

    def apply(self, guide: FloatCube, response: Response, *, overwrite: bool = False) -> FloatCube:
        """Return a corrected guide, shape (msi band, row, col), which takes the place of ``guide`` if that may be."""
        ratio, (_, height, width) = response.ratio, self.matrix.shape
        corrected = guide if overwrite else np.empty_like(guide)
        for rows in row_parts(height, _APPLIED_ROWS):
            read = rows_around(rows, INTERPOLATION_PX, height)
            inner, fine = (
                slice(part.start * ratio, part.stop * ratio) for part in (rows_inside(rows, read), rows)
            )  # fmt: skip
            before = guide[:, fine]
            after = before.copy()
            factors = self.matrix.read(Slice2D.of(read, slice(0, width)))
            for band, matrix in enumerate(factors.reshape(len(guide), -1, *factors.shape[1:])):
                add_affine(after[band], response.up_single(matrix)[:, inner], before)
            if self.pattern is not None:
                pattern, *images = self.pattern
                pattern.add_to(
                    after, before, *(response.up_single(image[None, read])[0, inner] for image in images)
                )  # fmt: skip
            corrected[:, fine] = after
        return corrected


def shares_by_error(
    losses: Sequence[FloatArray], weight: FloatArray, width_px: float, decisiveness: float, level: float | None = None
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
    level
        Mean of the first error in its windows, of all of an image that this is a part of; None: this is all.

    Returns
    -------
    numpy.ndarray
        Shares, of sum 1, shape (candidate, row, col).
    """
    local = np.stack([window_mean(loss * weight, width_px) for loss in losses])
    share = (local + 1e-3 * (local[0].mean() if level is None else level)) ** -decisiveness
    return np.asarray(share / share.sum(axis=0))


def guide_scale(guide: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of a guide's bands (msi band, row, col), each of shape (msi band,)."""
    total = weight.sum()
    mean = np.array([(band * weight).sum() for band in guide]) / total
    square = [((band - level) ** 2 * weight).sum() / total for band, level in zip(guide, mean, strict=True)]
    return mean, np.sqrt(np.maximum(square, 1e-20))


def gain_power(guide: FloatArray, weight: FloatArray) -> FloatArray:
    """Mean square of a guide's bands (msi band, row, col), shape (msi band,)."""
    return np.maximum([float((band**2 * weight).sum() / weight.sum()) for band in guide], 1e-20)


def reach_px(sigma: float) -> int:
    """How far a Gaussian window looks, pixels."""
    return _kernel(sigma).size - 1


def local_affine(
    seen: FloatArray, guide: FloatArray, weight: FloatArray, sigma: float, ridge: float,
    where: NDArray[np.bool_] | None = None, *, scale: tuple[FloatArray, FloatArray] | None = None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Regress ``seen - guide`` on the guide's bands and 1 in Gaussian windows; elsewhere than ``where``, nothing.

    ``scale`` is :func:`guide_scale` of all of an image that this is a part of; None: this is all.

    Returns
    -------
    correction : numpy.ndarray
        Shape (msi band, msi band + 1, row, col).
    error : numpy.ndarray
        Leave-one-out residuals, shape (msi band, row, col).
    """
    bands, rows, cols = guide.shape
    mean, spread = guide_scale(guide, weight) if scale is None else scale
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
    seen: FloatArray, guide: FloatArray, weight: FloatArray, sigma: float, ridge: float, powers: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Regress ``seen - guide`` on the same band of the guide in Gaussian windows; as :func:`local_affine`.

    ``powers`` is :func:`gain_power` of all of the image.
    """
    bands = len(guide)
    own = _centre_weight(sigma)
    correction = np.zeros((bands, bands + 1, *guide.shape[1:]))
    error = np.empty_like(guide)
    for band, (image, wanted) in enumerate(zip(guide, seen - guide, strict=True)):
        loading = ridge / (2.0 * np.pi * sigma**2) * powers[band]
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
