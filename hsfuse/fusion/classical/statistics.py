"""Scene-wide statistics that the classics learn from: joint moments, noise, signal subspace.

Everything is accumulated in float64 over strips of the scene, once, before any tile is fused: a result does not
depend on how the scene is cut into tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import smooth_array
from hsfuse.errors import OverlapError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.parallel import side_by_side, threads_for, together

MIN_PIXELS = 30
DETAIL_TAPS = 5
"""Length of the binomial smoother (standard deviation 1 pixel) whose complement is called *detail*."""
_MOST_THREADS = 8
"""Strips that are looked at side by side; each takes a few copies of itself."""

FloatMatrix = NDArray[np.float64]


@dataclass
class Moments:
    """Running count, mean and scatter of vectors."""

    count: int
    mean: FloatMatrix
    scatter: FloatMatrix

    @classmethod
    def empty(cls, size: int) -> Moments:
        """Return the moments of nothing."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Moments:
        """Return the moments of vectors of shape (component, sample)."""
        if vectors.shape[1] == 0:
            return cls.empty(vectors.shape[0])
        data = np.asarray(vectors, dtype=np.float64)
        mean = data.mean(axis=1)
        data = data - mean[:, None]
        return cls(vectors.shape[1], mean, data @ data.T)

    def add(self, more: Moments) -> None:
        """Take in further vectors by their moments."""
        if more.count == 0:
            return
        # Parallel update (Chan, Golub, LeVeque 1983): no loss of digits when the mean is large.
        total = self.count + more.count
        step = more.mean - self.mean
        self.scatter += more.scatter + np.outer(step, step) * (self.count * more.count / total)
        self.mean = self.mean + step * (more.count / total)
        self.count = total

    @property
    def covariance(self) -> FloatMatrix:
        """Covariance of what came in."""
        return self.scatter / max(self.count, 1)


@dataclass(frozen=True)
class PairStatistics:
    """Joint statistics of HSI and MSI at low resolution.

    Attributes
    ----------
    bands
        Number of HSI bands; vectors hold the HSI bands first, then the MSI bands.
    count
        Valid pixels.
    mean
        Shape (band + msi band,).
    covariance
        Of the values, shape (band + msi band, band + msi band).
    detail
        Second moments of what a 5 x 5 binomial smoother takes away; the same shape.
    hsi_count, hsi_covariance
        Pixels that tell what the HSI alone is like, those whose MSI was repaired among them, and their covariance,
        shape (band, band): what an image's noise and its signal subspace are does not depend on what the other shows.
    """

    bands: int
    count: int
    mean: FloatMatrix
    covariance: FloatMatrix
    detail: FloatMatrix
    hsi_count: int
    hsi_covariance: FloatMatrix

    @property
    def hsi_mean(self) -> FloatMatrix:
        """Mean HSI spectrum."""
        return self.mean[: self.bands]

    @property
    def msi_mean(self) -> FloatMatrix:
        """Mean of the MSI bands."""
        return self.mean[self.bands :]


def gather(strips: Iterable[LowResolutionStrip]) -> PairStatistics:
    """Accumulate the joint statistics of a scene in one pass.

    Strips need not adjoin. Details are taken where a window lies inside one strip, so strips should be at least
    a dozen rows high.

    Raises
    ------
    OverlapError
        Fewer than 30 valid pixels.
    """
    values: Moments | None = None
    details: Moments | None = None
    further: Moments | None = None

    def look(strip: LowResolutionStrip) -> tuple[Moments, Moments, Moments]:
        return strip.once("moments", lambda: _moments_of(strip))

    for of_values, of_details, of_further in side_by_side(look, strips, threads_for(_MOST_THREADS)):
        if values is None or details is None or further is None:
            values, details = Moments.empty(len(of_values.mean)), Moments.empty(len(of_values.mean))
            further = Moments.empty(len(of_further.mean))
        values.add(of_values)
        details.add(of_details)
        further.add(of_further)
    if values is None or details is None or further is None or values.count < MIN_PIXELS:
        count = 0 if values is None else values.count
        raise OverlapError(
            f"Only {count} HSI pixels are valid in both images; at least {MIN_PIXELS} are needed to fuse them.",
            hint="Check the overlap, the cloud mask and the nodata areas of both products.",
        )
    bands = len(further.mean)
    of_hsi = Moments(values.count, values.mean[:bands], values.scatter[:bands, :bands].copy())
    of_hsi.add(further)
    return PairStatistics(
        bands,
        values.count,
        values.mean,
        values.covariance,
        # Scenes too broken for any complete window fall back on the values themselves.
        details.covariance if details.count >= MIN_PIXELS else values.covariance,
        of_hsi.count,
        of_hsi.covariance,
    )


def _moments_of(strip: LowResolutionStrip) -> tuple[Moments, Moments, Moments]:
    """Moments of a strip's values, of their details, and of the HSI where the MSI was repaired."""
    joint = np.concatenate([strip.hsi, strip.msi])
    if not np.isfinite(joint).all():
        joint = np.nan_to_num(joint)
    valid = np.asarray(strip.valid, bool)
    # A detail is valid only where every pixel of its window is.
    solid = binary_erosion(valid, np.ones((DETAIL_TAPS, DETAIL_TAPS), bool))

    def details() -> Moments:
        return Moments.of((joint - smooth_array(joint, DETAIL_TAPS))[:, solid])

    both = (lambda: Moments.of(joint[:, valid]), details if solid.any() else lambda: Moments.empty(len(joint)))
    # Strips are few: where there are many threads, each gets two.
    of_values, of_details = together(*both, threads=threads_for(2 * _MOST_THREADS) // _MOST_THREADS)
    further = Moments.empty(len(strip.hsi)) if strip.repaired is None else Moments.of(strip.hsi[:, strip.repaired])
    return of_values, of_details, further


def noise_std(covariance: FloatMatrix, count: int) -> FloatMatrix:
    """Estimate each band's noise from what the other bands cannot explain of it.

    The variance that is left when a band is regressed on all others is the inverse of the precision matrix's
    diagonal; no second pass over the data is needed.

    Parameters
    ----------
    covariance
        Shape (band, band).
    count
        Pixels that it was computed from.

    Returns
    -------
    numpy.ndarray
        Standard deviations, shape (band,), above 0 also for constant bands.

    References
    ----------
    R. E. Roger, J. F. Arnold, Reliably estimating the noise in AVIRIS hyperspectral images, IJRS 17, 1996.
    """
    bands = len(covariance)
    variance = np.diag(covariance).copy()
    scale = max(float(variance.mean()), 1e-30)
    safe = np.where(variance > 1e-12 * scale, variance, scale)
    loaded = covariance + np.diag(1e-8 * safe + np.where(variance > 1e-12 * scale, 0.0, safe))
    left = 1.0 / np.diag(np.linalg.inv(loaded))
    # Regressing on (band - 1) others uses up degrees of freedom; few pixels would look cleaner than they are.
    left = left * count / max(count - bands, 0.2 * count)
    return np.asarray(np.sqrt(np.clip(left, 1e-10 * safe, safe)), dtype=np.float64)


@dataclass(frozen=True)
class Subspace:
    """Signal subspace of the HSI; its components are uncorrelated and their noise has unit variance.

    Attributes
    ----------
    mean
        Shape (band,).
    forward
        Shape (component, band): components = forward @ (spectrum - mean).
    back
        Shape (band, component): spectrum = mean + back @ components.
    noise
        Noise of each band, shape (band,).
    """

    mean: FloatMatrix
    forward: FloatMatrix
    back: FloatMatrix
    noise: FloatMatrix

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.forward.shape[0])


def signal_subspace(statistics: PairStatistics, *, max_rank: int = 32) -> Subspace:
    """Find the directions in which the HSI varies more than its noise does.

    The HSI is whitened by its noise; eigenvalues above the edge of a pure noise covariance's spectrum
    (Marchenko and Pastur) are signal.
    """
    bands = statistics.bands
    covariance = statistics.hsi_covariance
    noise = noise_std(covariance, statistics.hsi_count)
    values, vectors = np.linalg.eigh(covariance / np.outer(noise, noise))
    values, vectors = values[::-1], vectors[:, ::-1]
    edge = (1.0 + np.sqrt(bands / statistics.hsi_count)) ** 2
    rank = int(np.clip((values > edge).sum(), min(4, bands), min(max_rank, bands)))
    basis = vectors[:, :rank]
    return Subspace(statistics.hsi_mean, basis.T / noise, basis * noise[:, None], noise)
