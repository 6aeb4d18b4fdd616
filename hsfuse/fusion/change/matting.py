"""Matting: which share of every fine pixel of the guide shows foreign ground, sharper than an HSI pixel.

At low resolution the guide departs from what the HSI shows by ``B (c (m - g))``: B is the HSI's response, m the guide,
g what the HSI says it should be, c the foreign share. One unknown between 0 and 1 per fine pixel, of known amplitude
in several bands: with edge-weighted total variation and sparsity the edge comes out finer than an HSI pixel.
Iteratively reweighted least squares with conjugate gradients, near the candidates only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.fusion.change.response import Response, SeparableResponse
from hsfuse.fusion.scene_model.relation import smoothed
from hsfuse.masks import expand
from hsfuse.native import matting as native

FloatArray = NDArray[np.float64]
FloatImage = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_SMOOTHNESS, _SPARSITY = 0.6, 0.17
_RESIDUAL_SHARE, _MODEL_ERROR = 0.9, 0.022
_EDGE_CONTRAST, _TEXTURE_WEIGHT = 0.1, 1.8
_EPSILON = 0.027
_ROUNDS, _STEPS = 6, 20
NEAR_PX, _DATA_PX = 2, 3
"""Growth of the candidates, HSI pixels: where shares are unknown, and where the data are looked at."""
_START_DISTANCE = 240.0
_ALL, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
_PAIRS = (
    ((_ALL, _FIRST), (_ALL, _LAST), 1.0), ((_FIRST, _ALL), (_LAST, _ALL), 1.0),
    ((_FIRST, _FIRST), (_LAST, _LAST), 0.7), ((_FIRST, _LAST), (_LAST, _FIRST), 0.7),
)  # fmt: skip
"""Neighbours: where the first and the second ones lie in an image, and what their differences count."""


@dataclass(frozen=True)
class MattingData:
    """A block of the scene.

    Attributes
    ----------
    guide, expected
        The guide and what the HSI says it should be, shape (msi band, row, col) on the fine grid.
    seen, blurred
        What the HSI shows and the blurred guide, shape (msi band, row, col) on the coarse grid.
    variance, distance
        Of their difference, shapes (msi band, row, col) and (row, col), coarse grid.
    candidates
        Coarse pixels that may hold foreign ground.
    power
        Variance of every MSI band over the scene, shape (msi band,).
    contrast
        Median of the squared differences between neighbouring fine pixels, in units of ``power``, over the scene.
    """

    guide: FloatArray
    expected: FloatArray
    seen: FloatArray
    blurred: FloatArray
    variance: FloatArray
    distance: FloatArray
    candidates: BoolArray
    power: FloatArray
    contrast: float


def foreign_share(data: MattingData, response: Response) -> FloatArray:
    """Return the foreign share of every fine pixel of the block, shape (row, col).

    In single precision: the time goes into reading memory.
    """
    rows, cols = data.guide.shape[1:]
    asked = expand(grown(data.candidates, NEAR_PX), response.ratio)
    if not asked.any():
        return np.zeros((rows, cols))
    near = asked.astype(np.float32)
    looked = grown(data.candidates, _DATA_PX).T[:, :, None].astype(np.float32)
    blur = response.separable((rows // response.ratio, cols // response.ratio))
    squares = blur.squared()

    def coarse(image: FloatArray) -> FloatImage:
        """In the response's layout, (col, row, band)."""
        return np.ascontiguousarray(image.transpose(2, 1, 0), np.float32)

    floor = coarse(_RESIDUAL_SHARE * data.variance + _MODEL_ERROR**2 * data.power[:, None, None])
    detail = (data.seen - smoothed(data.seen, 1.0)) ** 2
    texture = _TEXTURE_WEIGHT * coarse(np.asarray(gaussian_filter(detail, (0, 1.0, 1.0), mode="constant")))
    amplitude = np.ascontiguousarray(((data.guide - data.expected) * near).transpose(1, 0, 2), np.float32)
    wanted = coarse(data.blurred - data.seen)
    edges = _edges(data)
    equations = NormalEquations(near, amplitude, blur)
    start = np.minimum(data.distance / _START_DISTANCE, 1.0)
    found = np.clip(response.up_single(start[None])[0], 0.0, 1.0) * near
    for _ in range(_ROUNDS):
        covered = np.clip(blur.down(found[:, None]), 0.0, 1.0)
        variance = floor + texture * 4.0 * covered * (1.0 - covered)
        fit = wanted - blur.down(amplitude * found[:, None])
        precision = 1.0 / (1.0 + (fit**2 / variance).mean(axis=2, keepdims=True) / 4.0) / variance * looked
        smooth = [
            _SMOOTHNESS * edge / np.sqrt((found[a] - found[b]) ** 2 + _EPSILON**2)
            for edge, (a, b, _) in zip(edges, _PAIRS, strict=True)
        ]
        sparse = _SPARSITY / np.sqrt(found**2 + _EPSILON**2)

        right = (amplitude * blur.back(precision * wanted)).sum(axis=1)
        diagonal = sparse + (amplitude**2 * squares.back(precision)).sum(axis=1)
        for weight, (a, b, _) in zip(smooth, _PAIRS, strict=True):
            diagonal[a] += weight
            diagonal[b] += weight
        normal = partial(equations.applied, sparse, smooth, precision)
        found = np.clip(_conjugate_gradients(normal, right, found, 1.0 / diagonal), 0.0, 1.0)
    return np.asarray(found, np.float64)


class NormalEquations:
    """The normal equations of a block: by a compiled kernel where there is one, else by NumPy with the same bits.

    Parameters
    ----------
    near
        1 where shares are unknown, 0 elsewhere, shape (row, col).
    amplitude
        What a share of 1 changes, shape (row, msi band, col).
    response
        The HSI's.
    """

    def __init__(self, near: FloatImage, amplitude: FloatImage, response: SeparableResponse) -> None:
        self._near, self._amplitude, self._response = near, amplitude, response
        # Written to again and again: new memory for each step would cost as much as the arithmetic.
        self._out, self._moved = np.empty_like(near), np.empty_like(amplitude)
        self._steps = [np.empty_like(near[a]) for a, _, _ in _PAIRS]

    def applied(
        self, sparse: FloatImage, smooth: list[FloatImage], precision: FloatImage, x: FloatImage
    ) -> FloatImage:  # fmt: skip
        """Apply them to ``x`` (row, col); the result is written over by the next call.

        Parameters
        ----------
        sparse
            Weights of the shares, shape (row, col).
        smooth
            Weights of the differences, for each of :data:`_PAIRS`.
        precision
            Of the data, shape (coarse col, coarse row, msi band).
        x
            Shares.
        """
        out, response, amplitude = self._out, self._response, self._amplitude
        matrices = response.cols, response.rows_back, response.cols_back
        if native.normal_equations(x, self._near, sparse, smooth, amplitude, precision, matrices, out):
            return out
        np.multiply(sparse, x, out=out)
        for weight, (a, b, _), step in zip(smooth, _PAIRS, self._steps, strict=True):
            np.subtract(x[a], x[b], out=step)
            step *= weight
            out[a] += step
            out[b] -= step
        low = response.down(np.multiply(amplitude, x[:, None], out=self._moved))
        low *= precision
        back = response.back(low)
        back *= amplitude
        for band in range(back.shape[1]):
            np.add(out, back[:, band], out=out)
        return np.multiply(out, self._near, out=out)


def neighbour_contrast(guide: NDArray[np.floating], power: FloatArray) -> FloatArray:
    """Squared differences between neighbours along the rows, mean over the bands in units of ``power``."""
    return np.asarray(((guide[:, :, 1:] - guide[:, :, :-1]) ** 2 / power[:, None, None]).mean(axis=0))


def _edges(data: MattingData) -> list[FloatImage]:
    """How much each difference between neighbours should be suppressed, for each of :data:`_PAIRS`."""
    found, scale = [], data.power[:, None, None]
    for a, b, weight in _PAIRS:
        contrast = ((data.guide[:, *a] - data.guide[:, *b]) ** 2 / scale).mean(axis=0)
        suppressed = 0.15 + 0.85 * np.exp(-contrast / (4.0 * _EDGE_CONTRAST * (data.contrast + 1e-9)))
        found.append((weight * suppressed).astype(np.float32))
    return found


def _conjugate_gradients(
    apply: Callable[[FloatImage], FloatImage], right: FloatImage, start: FloatImage, precondition: FloatImage
) -> FloatImage:
    x, residual = start.copy(), right - apply(start)
    direction = z = residual * precondition
    product = float(np.vdot(residual, z))
    for _ in range(_STEPS):
        image = apply(direction)
        step = product / max(float(np.vdot(direction, image)), 1e-30)
        x += step * direction
        image *= step
        residual -= image
        z = residual * precondition
        following = float(np.vdot(residual, z))
        direction = z + following / max(product, 1e-30) * direction
        product = following
    return x


def grown(mask: BoolArray, steps: int) -> BoolArray:
    """Add all eight neighbours to a mask, so many times."""
    return np.asarray(binary_dilation(mask, np.ones((3, 3), bool), iterations=steps), dtype=np.bool_)
