"""Spectra that a scene is made of, along its strongest directions: what is like none of them is fused less well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import vq

from hsfuse.native.spectra import likeness

FloatArray = NDArray[np.float64]
FloatImages = NDArray[np.float32]

_MOST, _PIXELS_EACH = 64, 4
"""Spectra, at most, and pixels of the HSI that there must be to each."""
_ROUNDS = 5
_NEAR = 2.0
"""Weight of a squared distance of one standard deviation in each direction."""
_LEAST = 1e-9
_PART_PX = 4096
"""Pixels that are compared at a time: their distances stay in the cache."""


@dataclass(frozen=True)
class TypicalSpectra:
    """Centres of the clusters of a scene's spectra.

    Attributes
    ----------
    spectra
        In units of ``spread``, shape (spectrum, direction).
    spread
        Standard deviation of the HSI along the directions, shape (direction,).
    """

    spectra: FloatImages
    spread: FloatImages

    @classmethod
    def of(cls, images: NDArray[np.floating]) -> TypicalSpectra:
        """Find them by k-means in images of shape (direction, pixel); the same pixels give the same spectra."""
        spread = np.asarray(images.std(axis=1) + 1e-12, np.float64)
        pixels = np.ascontiguousarray((images / spread[:, None]).T, np.float64)
        count = min(_MOST, max(len(pixels) // _PIXELS_EACH, 1))
        spectra = pixels[np.linspace(0, len(pixels) - 1, count).astype(int)]
        for _ in range(_ROUNDS):
            nearest, _ = vq(pixels, spectra, check_finite=False)
            held = np.bincount(nearest, minlength=count)
            sums = np.stack([np.bincount(nearest, each, count) for each in pixels.T], axis=1)
            # One that holds nothing stays where it is.
            spectra = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], spectra)
        return cls(spectra.astype(np.float32), spread.astype(np.float32))

    def rareness(self, images: FloatImages) -> FloatImages:
        """How unlike each pixel is to all of the spectra, no unit.

        The negative log of the mean of Student's kernels with seven degrees of freedom.

        Parameters
        ----------
        images
            Shape (direction, row, col).

        Returns
        -------
        numpy.ndarray
            Shape (row, col).
        """
        pixels = np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
        found = likeness(pixels, self.spread, np.ascontiguousarray(self.spectra), _NEAR)
        if found is None:
            found = self._plain_likeness(pixels)
        return np.asarray(-np.log(found + np.float32(_LEAST)), np.float32).reshape(images.shape[1:])

    def _plain_likeness(self, pixels: FloatImages) -> FloatImages:
        """:func:`hsfuse.native.spectra.likeness` in NumPy."""
        pixels = pixels / self.spread[:, None]
        found = np.empty(pixels.shape[1], np.float32)
        own = (self.spectra**2).sum(axis=1)[:, None]
        for start in range(0, found.size, _PART_PX):
            part = pixels[:, start : start + _PART_PX]
            kernel = self.spectra @ part
            kernel *= np.float32(-2.0)
            kernel += own
            kernel += (part**2).sum(axis=0)
            np.maximum(kernel, 0.0, out=kernel)
            kernel *= np.float32(_NEAR)
            kernel += np.float32(1.0)
            # (1 + 2 d^2)^-4: two squarings are cheaper than a power or an exponential.
            np.square(kernel, out=kernel)
            np.square(kernel, out=kernel)
            np.reciprocal(kernel, out=kernel)
            found[start : start + _PART_PX] = kernel.mean(axis=0)
        return found
