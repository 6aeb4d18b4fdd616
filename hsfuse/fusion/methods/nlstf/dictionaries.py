"""What NLSTF learns from a scene: clusters of alike patches, and for each one dictionaries of the three modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.classical.unmixing import EPSILON, endmembers_vca

PATCHES_PER_CLUSTER = 40
_MOST_PATCHES = 12_000
_VECTORS = 600
"""Rows or columns of patches that a dictionary is learned from."""
_UPDATES = 40
_PIXELS = 400
"""HSI pixels that a spectral dictionary is chosen from: those most alike the cluster."""


@dataclass(frozen=True)
class Dictionaries:
    """Clusters and their dictionaries.

    Attributes
    ----------
    centroid
        Mean patch, shape (cluster, msi band * patch * patch).
    rows, cols
        Atoms of unit length, shape (cluster, patch, atom).
    spectra
        Spectra, shape (cluster, band, spectrum).
    """

    centroid: FloatMatrix
    rows: NDArray[np.float64]
    cols: NDArray[np.float64]
    spectra: NDArray[np.float64]


def sample_patches(strips: Iterable[LowResolutionStrip], side: int, step: int, ratio: int, seed: int) -> FloatMatrix:
    """Draw whole patches of the MSI, (patch, msi band, side, side); of its degraded form where that is all there is."""
    generator = np.random.default_rng(seed)
    kept: list[NDArray[np.float32]] = []
    keys = np.empty(0)
    for strip in strips:
        found = np.concatenate(list(_patches(strip, side, step, ratio)) or [_none(strip, side)])
        keys = np.concatenate([keys, generator.random(len(found))])
        together = np.concatenate([*kept, found])
        if len(together) > _MOST_PATCHES:
            smallest = np.sort(np.argpartition(keys, _MOST_PATCHES)[:_MOST_PATCHES])
            keys, together = keys[smallest], together[smallest]
        kept = [together]
    return kept[0].astype(np.float64) if kept else np.zeros((0, 0, side, side))


def _none(strip: LowResolutionStrip, side: int) -> NDArray[np.float32]:
    return np.zeros((0, strip.msi.shape[0], side, side), np.float32)


def _patches(strip: LowResolutionStrip, side: int, step: int, ratio: int) -> Iterator[NDArray[np.float32]]:
    image, above = (strip.msi, 0) if strip.fine is None else (strip.fine, strip.fine_above * ratio)
    count = strip.valid.shape[0] * (1 if strip.fine is None else ratio)
    for row in range(above, above + count - side + 1, step):
        lines = image[:, row : row + side]
        windows = np.lib.stride_tricks.sliding_window_view(lines, side, axis=2)[:, :, ::step]
        found = np.ascontiguousarray(windows.transpose(2, 0, 1, 3), dtype=np.float32)
        yield found[np.isfinite(found).all(axis=(1, 2, 3))]


def learn(
    patches: FloatMatrix, hsi: FloatMatrix, msi: FloatMatrix, *, clusters: int, atoms: int, spectra: int, seed: int
) -> Dictionaries:
    """Cluster patches and learn dictionaries.

    Parameters
    ----------
    patches
        Shape (patch, msi band, side, side).
    hsi, msi
        Pixels that both sensors saw, shapes (band, pixel) and (msi band, pixel).
    clusters, atoms, spectra
        How many at most of each.
    seed
        For everything random.
    """
    generator = np.random.default_rng([seed, 1])
    count, bands, side, _ = patches.shape
    wanted = int(np.clip(count // PATCHES_PER_CLUSTER, 1, clusters))
    flat = patches.reshape(count, -1)
    centroid, label = kmeans2(flat, wanted, iter=15, minit="++", seed=generator, missing="warn") if wanted > 1 else (
        flat.mean(axis=0, keepdims=True), np.zeros(count, int))  # fmt: skip
    used = np.unique(label)
    centroid = centroid[used]
    atoms, spectra = min(atoms, 2 * side), min(spectra, hsi.shape[0], hsi.shape[1])
    rows, cols, ends = [], [], []
    for number, cluster in enumerate(used):
        own = patches[label == cluster]
        rows.append(_atoms(own.transpose(2, 0, 1, 3).reshape(side, -1), atoms, generator))
        cols.append(_atoms(own.transpose(3, 0, 1, 2).reshape(side, -1), atoms, generator))
        colour = centroid[number].reshape(bands, -1).mean(axis=1)
        distance = np.square(msi - colour[:, None]).sum(axis=0)
        near = np.sort(np.argsort(distance, kind="stable")[: max(_PIXELS, 4 * spectra)])
        ends.append(endmembers_vca(hsi[:, near], spectra, seed))
    return Dictionaries(centroid, np.stack(rows), np.stack(cols), np.stack(ends))


def _atoms(vectors: FloatMatrix, count: int, generator: np.random.Generator) -> FloatMatrix:
    """Non-negative atoms of unit length, shape (side, count), by multiplicative updates."""
    chosen = generator.permutation(vectors.shape[1])[:_VECTORS]
    target = np.maximum(vectors[:, chosen], 0.0)
    scale = np.sqrt(np.square(target).mean()) + EPSILON
    # Constant atoms alone would start alike.
    atoms = target[:, generator.integers(target.shape[1], size=count)] + scale * generator.random((len(target), count))
    weights = np.full((count, target.shape[1]), 1.0 / count)
    for _ in range(_UPDATES):
        weights *= (atoms.T @ target) / (atoms.T @ atoms @ weights + EPSILON)
        atoms *= (target @ weights.T) / (atoms @ (weights @ weights.T) + EPSILON)
    return np.asarray(atoms / np.maximum(np.linalg.norm(atoms, axis=0), EPSILON))
