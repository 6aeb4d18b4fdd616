"""Matting: which share of every fine pixel of the guide shows foreign ground, sharper than an HSI pixel.

At low resolution the guide departs from what the HSI shows by ``B (c (m - g))``: B is the HSI's response, m the guide,
g what the HSI says it should be, c the foreign share. One unknown between 0 and 1 per fine pixel, of known amplitude
in several bands: with edge-weighted total variation and sparsity the edge comes out finer than an HSI pixel.
Iteratively reweighted least squares with conjugate gradients, near the candidates only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model.relation import smoothed
from hsfuse.masks import expand

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SMOOTHNESS, _SPARSITY = 0.6, 0.17
_RESIDUAL_SHARE, _MODEL_ERROR = 0.9, 0.022
_EDGE_CONTRAST, _TEXTURE_WEIGHT = 0.1, 1.8
_EPSILON = 0.027
_ROUNDS, _STEPS = 6, 20
NEAR_PX, _DATA_PX = 2, 3
"""Growth of the candidates, HSI pixels: where shares are unknown, and where the data are looked at."""
_START_DISTANCE = 240.0


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
    """Return the foreign share of every fine pixel of the block, shape (row, col)."""
    bands, rows, cols = data.guide.shape
    ratio = response.ratio
    near = expand(grown(data.candidates, NEAR_PX), ratio)
    ids = np.flatnonzero(near)
    share = np.zeros(rows * cols)
    if ids.size == 0:
        return share.reshape(rows, cols)
    looked = np.flatnonzero(grown(data.candidates, _DATA_PX))
    blur = response.sparse((rows // ratio, cols // ratio), looked, ids)
    blur_t = blur.T.tocsr()
    square_t = blur_t.power(2)

    def coarse(image: FloatArray) -> FloatArray:
        return np.asarray(image.reshape(bands, -1)[:, looked])

    floor = coarse(_RESIDUAL_SHARE * data.variance) + _MODEL_ERROR**2 * data.power[:, None]
    detail = (data.seen - smoothed(data.seen, 1.0)) ** 2
    texture = _TEXTURE_WEIGHT * coarse(np.asarray(gaussian_filter(detail, (0, 1.0, 1.0), mode="constant")))
    amplitude = (data.guide - data.expected).reshape(bands, -1)[:, ids]
    wanted = coarse(data.blurred - data.seen)
    gradient, edge = _gradient(data, ids)
    gradient_t = gradient.T.tocsr()
    start = np.minimum(data.distance / _START_DISTANCE, 1.0)
    found = np.clip(response.up(start[None])[0], 0.0, 1.0).ravel()[ids]
    for _ in range(_ROUNDS):
        covered = np.clip(blur @ found, 0.0, 1.0)
        variance = floor + texture * 4.0 * covered * (1.0 - covered)
        fit = np.stack([wanted[k] - blur @ (amplitude[k] * found) for k in range(bands)])
        precision = 1.0 / (1.0 + (fit**2 / variance).mean(axis=0) / 4.0) / variance
        smooth = _SMOOTHNESS * edge / np.sqrt((gradient @ found) ** 2 + _EPSILON**2)
        sparse = _SPARSITY / np.sqrt(found**2 + _EPSILON**2)

        def normal(
            x: FloatArray, precision: FloatArray = precision, smooth: FloatArray = smooth, sparse: FloatArray = sparse
        ) -> FloatArray:
            out = gradient_t @ (smooth * (gradient @ x)) + sparse * x
            for k in range(bands):
                out += amplitude[k] * (blur_t @ (precision[k] * (blur @ (amplitude[k] * x))))
            return np.asarray(out)

        right = sum(amplitude[k] * (blur_t @ (precision[k] * wanted[k])) for k in range(bands))
        diagonal = gradient_t.power(2) @ smooth + sparse
        diagonal = diagonal + sum(amplitude[k] ** 2 * (square_t @ precision[k]) for k in range(bands))
        found = np.clip(_conjugate_gradients(normal, np.asarray(right), found, 1.0 / diagonal), 0.0, 1.0)
    share[ids] = found
    return share.reshape(rows, cols)


def neighbour_contrast(guide: NDArray[np.floating], power: FloatArray) -> FloatArray:
    """Squared differences between neighbours along the rows, mean over the bands in units of ``power``."""
    return np.asarray(((guide[:, :, 1:] - guide[:, :, :-1]) ** 2 / power[:, None, None]).mean(axis=0))


def _gradient(data: MattingData, ids: NDArray[np.int64]) -> tuple[sp.csr_matrix, FloatArray]:
    """Differences between neighbours of which one is unknown, and how much each should be suppressed."""
    bands, rows, cols = data.guide.shape
    index = np.arange(rows * cols).reshape(rows, cols)
    pairs = [
        (index[:, :-1], index[:, 1:], 1.0), (index[:-1], index[1:], 1.0),
        (index[:-1, :-1], index[1:, 1:], 0.7), (index[:-1, 1:], index[1:, :-1], 0.7),
    ]  # fmt: skip
    first = np.concatenate([a.ravel() for a, _, _ in pairs])
    second = np.concatenate([b.ravel() for _, b, _ in pairs])
    weight = np.concatenate([np.full(a.size, w) for a, _, w in pairs])
    position = np.full(rows * cols, -1)
    position[ids] = np.arange(ids.size)
    kept = (position[first] >= 0) | (position[second] >= 0)
    first, second, weight = first[kept], second[kept], weight[kept]
    flat = data.guide.reshape(bands, -1)
    contrast = ((flat[:, first] - flat[:, second]) ** 2 / data.power[:, None]).mean(axis=0)
    weight = weight * (0.15 + 0.85 * np.exp(-contrast / (4.0 * _EDGE_CONTRAST * (data.contrast + 1e-9))))
    edges = np.arange(first.size)
    inside_first, inside_second = position[first] >= 0, position[second] >= 0
    matrix = sp.csr_matrix(
        (
            np.concatenate([np.ones(inside_first.sum()), -np.ones(inside_second.sum())]),
            (
                np.concatenate([edges[inside_first], edges[inside_second]]),
                np.concatenate([position[first][inside_first], position[second][inside_second]]),
            ),
        ),
        shape=(first.size, ids.size),
    )
    return matrix, weight


def _conjugate_gradients(
    apply: Callable[[FloatArray], FloatArray], right: FloatArray, start: FloatArray, precondition: FloatArray
) -> FloatArray:
    x = start
    residual = right - apply(x)
    z = residual * precondition
    direction, product = z, float(residual @ z)
    for _ in range(_STEPS):
        image = apply(direction)
        step = product / max(float(direction @ image), 1e-30)
        x = x + step * direction
        residual = residual - step * image
        z = residual * precondition
        following = float(residual @ z)
        direction = z + following / max(product, 1e-30) * direction
        product = following
    return x


def grown(mask: BoolArray, steps: int) -> BoolArray:
    """Add all eight neighbours to a mask, so many times."""
    return np.asarray(binary_dilation(mask, np.ones((3, 3), bool), iterations=steps), dtype=np.bool_)
