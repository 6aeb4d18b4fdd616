"""What lies outside of the signal subspace, as far as it follows from what lies inside.

Outside, a pixel's signal is below the HSI's noise, and the fusion leaves it out; but it is no more than the noise, not
nothing, and of a dark pixel a large part. Linearly nothing of it follows from the components inside. Otherwise it does:
spectra of one material bend alike. So it is a Gaussian process of the components, learned from all pixels of the HSI
and asked for at those of the result, in their detail.

Its covariance is that of a subset of regressors (C. Rasmussen, C. Williams, Gaussian Processes for Machine Learning,
2006, 8.3.1). Of what it finds in each spectral direction as much is believed as is beyond what it finds in noise alone,
whose largest direction is known (V. Marchenko, L. Pastur, Distribution of eigenvalues for some sets of random matrices,
1967).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel

if TYPE_CHECKING:
    import torch

CENTRES, FEWER_CENTRES = 256, 128
"""Pixels whose covariance with another one is its regressors, with ``--quality best`` and else: half of them bring
nine tenths of what all do."""
_WIDTH = 0.5
"""Of the covariance, relative to the median squared distance of two pixels."""
_FLATTENING = 0.75
"""Power of a principal component's deviation that it is divided by: strong ones tell more, but not in proportion."""
_PRIOR = 0.5
"""Variance of what follows, by spectral direction, in units of the noise."""
_SUSPICION = 1.0 / 1.5
"""Of what would be found in noise in its largest direction, the share that is taken off what is found: on whole cubes
of the training and validation sites all of it gains 0.019 dB, this 0.028 and half of it 0.024 dB; worst of 80 pairs
-0.00, -0.02 and -0.04 dB."""
_RARE = 4.0
"""Standard deviations of the noise's mean square by which a pixel's exceeds 1 where it holds a rare material."""
_LEAST_VARIANCE, _LEAST_PIVOT = 0.05, 1e-3
_LEAST_PIXELS, _MOST_PIXELS = 60, 20_000
_CHUNK_VALUES = 1 << 18


@dataclass(frozen=True)
class OutsideSubspace:
    """What follows outside of the subspace from the components inside.

    Attributes
    ----------
    into
        From components to coordinates, shape (coordinate, component), in which the covariance of two pixels is the
        exponential of minus the square of their distance: the same however the components are turned.
    centres
        Coordinates of the pixels that stand for all, shape (centre, coordinate).
    weight
        From covariances with these to spectral directions, shape (direction, centre).
    back
        From these to bands, shape (band, direction).
    """

    into: torch.Tensor
    centres: torch.Tensor
    weight: torch.Tensor
    back: torch.Tensor

    @classmethod
    def fit(
        cls, strips: Sequence[LowResolutionStrip], model: SceneModel, *, best: bool = True, seed: int = 0,
        device: str = "cpu",
    ) -> OutsideSubspace | None:  # fmt: skip
        """Learn from the HSI.

        Parameters
        ----------
        strips
            The scene at low resolution; only the HSI is looked at.
        model
            Its subspace and noise.
        best
            With more pixels that stand for all.
        seed
            Of the choice of pixels.
        device
            Torch device.

        Returns
        -------
        OutsideSubspace or None
            None where nothing follows, or there are too few pixels to tell.
        """
        import torch

        space, rng = model.space, np.random.default_rng(seed)
        spectra = np.concatenate([strip.hsi[:, strip.of_hsi].T for strip in strips])
        spectra = spectra[rng.permutation(len(spectra))[:_MOST_PIXELS]].astype(np.float64) - space.mean
        inside = spectra @ space.forward.T
        left = (spectra - inside @ space.back.T) / space.noise
        # What is far above the noise are rare materials, which the base method passes on itself.
        free = max(left.shape[1] - space.rank, 1)
        common = (left**2).sum(axis=1) / free < 1.0 + _RARE * np.sqrt(2.0 / free)
        inside, left = inside[common], left[common]
        if len(left) < _LEAST_PIXELS:
            return None
        # Of the whitened components the noise has a variance of 1.
        variance, axes = np.linalg.eigh(np.cov(inside.T) - np.eye(space.rank))
        into = (axes * np.maximum(variance, _LEAST_VARIANCE) ** (-0.5 * _FLATTENING)).T
        few = inside[:CENTRES] @ into.T
        into /= np.sqrt(_WIDTH * max(float(np.median(_squared_distances(few, few))), 1e-12))
        found = _learned(inside @ into.T, left, CENTRES if best else FEWER_CENTRES)
        if found is None:
            return None
        centres, weight, directions = found
        return cls(*(
            torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)
            for array in (into, centres, weight, space.noise[:, None] * directions)
        ))  # fmt: skip

    def add_to(self, bands: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
        """Add what follows to bands, in place, and return them.

        Parameters
        ----------
        bands
            Shape (n, band, row, col), contiguous.
        components
            Of the same pixels, in the signal subspace, shape (n, component, row, col).
        """
        import torch

        squares = self.centres.square().sum(dim=1)[:, None]
        step = max(_CHUNK_VALUES // len(self.centres), 1)
        for image, out in zip(mix(self.into, components).flatten(2), bands.flatten(2), strict=True):
            for start in range(0, image.shape[1], step):
                part = image[:, start : start + step]
                alike = torch.matmul(2.0 * self.centres, part).sub_(squares).sub_(part.square().sum(dim=0))
                out[:, start : start + step].addmm_(self.back, torch.matmul(self.weight, alike.exp_()))
        return bands


def _learned(x: FloatMatrix, y: FloatMatrix, most: int) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix] | None:
    """Regress (pixel, band) with noise of unit variance on (pixel, regressor), by so many centres at most.

    Returns
    -------
    centres, weight, directions
        Shapes (centre, regressor), (direction, centre), (band, direction); None where nothing is found.
    """
    centres = x[:most]
    own = np.exp(-_squared_distances(centres, centres)) + _LEAST_PIVOT * np.eye(len(centres))
    alike = np.exp(-_squared_distances(x, centres))
    gram = alike.T @ alike
    solved = np.linalg.solve(gram + own / _PRIOR, np.concatenate([gram, alike.T @ y], axis=1))
    smoother, weight = solved[:, : len(centres)], solved[:, len(centres) :]
    # Of the matrix that smooths over the pixels: the sum of its squares, and how many directions these are.
    squares = float((smoother * smoother.T).sum())
    freedom = float(np.trace(smoother)) ** 2 / squares
    in_noise = squares / len(x) * (1.0 + np.sqrt(y.shape[1] / freedom)) ** 2
    values, vectors = np.linalg.eigh(weight.T @ gram @ weight / len(x))
    believed = 1.0 - _SUSPICION * in_noise / np.maximum(values, 1e-12)
    kept = believed > 0.0
    directions = vectors[:, kept]
    return (centres, (weight @ directions * believed[kept]).T, directions) if kept.any() else None


def _squared_distances(a: FloatMatrix, b: FloatMatrix) -> FloatMatrix:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))
