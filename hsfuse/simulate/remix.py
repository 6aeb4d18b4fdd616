"""New materials on the structure of a measured scene: real edges and textures, spectra that nobody measured there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.simulate.endmembers import Endmembers
from hsfuse.simulate.training_scene import vary_spectra
from hsfuse.spectral import BandTable

_LEAST, _MOST = 4, 12
"""Range of the number of materials."""
_SHARPNESS = (2.0, 10.0)
"""How fast a pixel's share in a material falls with its distance from it: from mixed to nearly pure pixels."""
_SHADE = (0.4, 2.0)
_CLUSTER_ROUNDS = 6
_EPS = 1e-6


def remix(reference: NDArray[np.float32], bands: BandTable, seed: int) -> NDArray[np.float32]:
    """Replace the materials of a scene.

    Pixels are clustered by the shape and level of their spectra; each gets shares of the clusters that fall with the
    distance. Every cluster then gets a spectrum of the library, scaled to the cluster's brightness so that contrasts
    stay what they were, and every pixel keeps what its brightness differs from that of its mixture (relief, shade,
    texture).

    Parameters
    ----------
    reference
        Any image with the structure that is wanted, shape (channel, row, col), free of NaN.
    bands
        Bands of the result.
    seed
        Equal arguments give equal scenes.

    Returns
    -------
    numpy.ndarray
        Shape (band, row, col) with the bands of ``bands``.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    count, rows, cols = reference.shape
    pixels = np.maximum(reference.reshape(count, -1).astype(np.float64), 0.0)
    shares, level = _materials(pixels, int(rng.integers(_LEAST, _MOST + 1)), float(rng.uniform(*_SHARPNESS)), rng)
    library = Endmembers.load()
    chosen = library.take(np.asarray(rng.choice(len(library), size=shares.shape[0], replace=False)))
    spectra = vary_spectra(chosen, rng).in_bands(bands)
    # Half of the way to the cluster's own brightness: bright and dark materials may change places now and then.
    own = np.maximum(spectra.mean(axis=0), _EPS)
    spectra *= (np.maximum(level, 0.01) / own) ** rng.uniform(0.5, 1.0, own.shape)
    spectra = np.clip(spectra, 0.001, 1.0)
    mixture = spectra @ shares
    expected = np.maximum(level @ shares, _EPS)
    shade = np.clip(pixels.mean(axis=0) / expected, *_SHADE)
    return np.asarray((mixture * shade).reshape(-1, rows, cols), dtype=np.float32)


def _materials(
    pixels: NDArray[np.float64], count: int, sharpness: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cluster pixels (band, pixel) in their leading components.

    Returns
    -------
    shares : numpy.ndarray
        Shape (material, pixel), sum 1.
    level : numpy.ndarray
        Mean reflectance of every material, shape (material,).
    """
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    vectors = np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, : min(8, len(pixels))]
    scores = vectors.T @ centred
    scores /= scores.std(axis=1, keepdims=True) + _EPS
    # Leading components carry the materials; the last ones, made as large by the division, mostly noise.
    scores *= (1.0 / np.sqrt(np.arange(1.0, len(scores) + 1.0)))[:, None]
    centres = scores[:, rng.choice(scores.shape[1], size=count, replace=False)]
    distance = _distances(scores, centres)
    for _ in range(_CLUSTER_ROUNDS):
        nearest = distance.argmin(axis=0)
        for k in range(count):
            members = nearest == k
            if members.any():
                centres[:, k] = scores[:, members].mean(axis=1)
        distance = _distances(scores, centres)
    relative = distance / np.maximum(np.median(distance), _EPS)
    weight = np.exp(-sharpness * (relative - relative.min(axis=0)))
    shares = weight / weight.sum(axis=0)
    return shares, (shares @ pixels.mean(axis=0)) / np.maximum(shares.sum(axis=1), _EPS)


def _distances(scores: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances of all pixels from all centres, shape (centre, pixel)."""
    square = (scores**2).sum(axis=0)[None] + (centres**2).sum(axis=0)[:, None] - 2.0 * centres.T @ scores
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))
