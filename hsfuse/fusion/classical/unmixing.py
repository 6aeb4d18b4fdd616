"""Linear unmixing: endmember extraction, multiplicative updates, response between the sensors.

Written from the published descriptions: vertex component analysis (Nascimento and Bioucas-Dias, IEEE TGRS 43, 2005)
and multiplicative non-negative matrix factorisation (Lee and Seung, NIPS 2000).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hsfuse.errors import OverlapError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix

EPSILON = 1e-9


def sample_pixels(strips: Iterable[LowResolutionStrip], limit: int, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    """Draw valid pixels at random: HSI (band, pixel) and MSI (msi band, pixel).

    Every valid pixel gets a random number in scene order and the smallest win, so neither the cut into strips nor
    the number of passes matters.
    """
    generator = np.random.default_rng(seed)
    keys = np.empty(0)
    kept: NDArray[np.float32] | None = None
    bands = 0
    for strip in strips:
        valid = np.asarray(strip.valid, bool)
        bands = strip.hsi.shape[0]
        pixels = np.concatenate([strip.hsi[:, valid], strip.msi[:, valid]])
        keys = np.concatenate([keys, generator.random(pixels.shape[1])])
        kept = pixels if kept is None else np.concatenate([kept, pixels], axis=1)
        if keys.size > limit:
            smallest = np.sort(np.argpartition(keys, limit)[:limit])
            keys, kept = keys[smallest], kept[:, smallest]
    if kept is None:
        return np.zeros((0, 0)), np.zeros((0, 0))
    return kept[:bands].astype(np.float64), kept[bands:].astype(np.float64)


def too_few_pixels(count: int) -> OverlapError:
    """Return the error for a scene with fewer valid pixels than the least that can be learnt from."""
    return OverlapError(
        f"Only {count} HSI pixels are valid in both images; at least {MIN_PIXELS} are needed.",
        hint="Check the overlap, the cloud mask and the nodata areas of both products.",
    )


def endmembers_vca(pixels: FloatMatrix, count: int, seed: int) -> FloatMatrix:
    """Find the most extreme pixel spectra by vertex component analysis.

    Parameters
    ----------
    pixels
        Shape (band, pixel).
    count
        Number of endmembers; at most the number of bands and of pixels.
    seed
        For the random directions.

    Returns
    -------
    numpy.ndarray
        Shape (band, count), columns of ``pixels``.
    """
    generator = np.random.default_rng(seed)
    bands, samples = pixels.shape
    count = min(count, bands, samples)
    mean = pixels.mean(axis=1, keepdims=True)
    centred = pixels - mean
    basis = np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, : max(count - 1, 1)]
    scores = basis.T @ centred
    # The projective lift of VCA for moderate noise: a constant last coordinate as large as the farthest pixel.
    lift = max(float(np.sqrt((scores**2).sum(axis=0)).max()), EPSILON)
    points = np.vstack([scores, np.full(samples, lift)])
    chosen: list[int] = []
    found = np.zeros((points.shape[0], 0))
    for _ in range(count):
        direction = generator.standard_normal((points.shape[0],))
        if found.shape[1]:
            orthogonal = np.linalg.qr(found)[0]
            direction = direction - orthogonal @ (orthogonal.T @ direction)
        direction = np.asarray(direction / max(float(np.linalg.norm(direction)), EPSILON))
        projection = np.abs(direction @ points)
        projection[chosen] = -1.0
        best = int(projection.argmax())
        chosen.append(best)
        found = np.column_stack([found, points[:, best]])
    return np.asarray(pixels[:, chosen], dtype=np.float64)


def factorise(pixels: FloatMatrix, spectra: FloatMatrix, weight: float, iterations: int) -> FloatMatrix:
    """Refine endmember spectra: abundances first, then both in turn, by multiplicative updates.

    Parameters
    ----------
    pixels
        Non-negative, shape (band, pixel).
    spectra
        Non-negative start, shape (band, endmember).
    weight
        Weight of the row that asks abundances to sum to one.
    iterations
        Updates of the abundances alone, and again of both in turn.

    Returns
    -------
    numpy.ndarray
        Shape (band, endmember).
    """
    spectra = np.maximum(spectra, EPSILON)
    target = np.vstack([pixels, np.full(pixels.shape[1], weight)])
    abundance = np.full((spectra.shape[1], pixels.shape[1]), 1.0 / spectra.shape[1])

    def update_abundance() -> None:
        nonlocal abundance
        mixing = np.vstack([spectra, np.full(spectra.shape[1], weight)])
        abundance = abundance * (mixing.T @ target) / ((mixing.T @ mixing) @ abundance + EPSILON)

    for _ in range(iterations):
        update_abundance()
    for _ in range(iterations):
        spectra = spectra * (pixels @ abundance.T) / (spectra @ (abundance @ abundance.T) + EPSILON)
        update_abundance()
    return spectra


def response_between(hsi: FloatMatrix, msi: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """Estimate non-negative weights and an offset that turn HSI pixels into MSI pixels.

    Returns
    -------
    weights : numpy.ndarray
        Shape (msi band, band), non-negative.
    offset : numpy.ndarray
        Shape (msi band,).
    """
    means = hsi.mean(axis=1, keepdims=True), msi.mean(axis=1, keepdims=True)
    centred, wanted = hsi - means[0], msi - means[1]
    gram = centred @ centred.T
    loading = 1e-6 * max(float(np.trace(gram)) / len(gram), EPSILON)
    # The normal equations' factor stands for all pixels: NNLS then works on a band x band system.
    lower = np.linalg.cholesky(gram + loading * np.eye(len(gram)))
    right = np.linalg.solve(lower, centred @ wanted.T)
    weights = np.stack([nnls(lower.T, right[:, k])[0] for k in range(len(msi))])
    return weights, (means[1] - weights @ means[0])[:, 0]
