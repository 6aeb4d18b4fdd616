"""Noise of the multispectral image at its own resolution, measured on the scene.

Noise is independent from band to band and from pixel to pixel, texture mostly is not. In small windows the high-pass
detail of every band, by three filters, is regressed on that of the other bands; what is left is noise plus the
texture that only this band has. Quantiles over the windows tell the two apart: without texture all windows are alike.
How far the quietest windows still hold texture is learned (``benchmarks/train_zoo/noise.py``): a small network reads
the quantiles and says how much of the residual is noise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, uniform_filter

WINDOW_PX = 7
_REACH_PX = 2
_BLOCK_PX, _BLOCKS = 96, 8
LEAST_WINDOWS = 100
"""Fewer tell nothing."""
_KEPT_BLOCKS = 3
_SECOND, _FOURTH = np.array((1.0, -2.0, 1.0)), np.array((1.0, -4.0, 6.0, -4.0, 1.0))
_KERNELS = (
    np.outer(_SECOND, _SECOND) / 6.0,
    np.outer(_FOURTH, _FOURTH) / 70.0,
    np.array(((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))) / np.sqrt(20.0),
)
"""High passes with unit gain for white noise."""
_LEFT_QUANTILES, _OWN_QUANTILES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5), (0.01, 0.05, 0.25, 0.5)
_REFERENCE = 2
"""Which of the quantiles the network's answer is relative to."""
_LARGEST_FEATURE = 4.0
_ANSWERS = (-2.5, 0.8)
"""Range of the network's answer, log of noise over that quantile; for pure noise it is 0.45."""
_TINY = 1e-16
_SAME = 1e-8
"""Smallest eigenvalue of the correlation of the bands' detail below which some bands follow from others exactly."""
_NOTHING, _MOST_CONSTANT = 1e-7, 0.5
"""Reflectance that counts as none, and the share of a window's pixels without any detail that is tolerated: images in
whole numbers have some by chance."""


@dataclass(frozen=True)
class GuideSample:
    """What an image, or a strip of a large one, tells about its noise.

    Attributes
    ----------
    windows
        Residual variance after the regression by filter, variance of the detail by filter, and mean square of the
        values in windows, shape (window, 7, msi band); may be empty.
    blocks
        Some of the blocks that they come from, whole ones without gaps, shape (msi band, row, col): for what is
        learned from the image at its own resolution.
    """

    windows: NDArray[np.float32]
    blocks: tuple[NDArray[np.float32], ...] = ()

    @classmethod
    def take(cls, msi: NDArray[np.floating], usable: NDArray[np.bool_]) -> GuideSample:
        """Measure in a few blocks of an image.

        Parameters
        ----------
        msi
            Shape (msi band, row, col); values where ``usable`` is False do not matter.
        usable
            Shape (row, col).
        """
        rows, cols = usable.shape
        places = [
            (slice(row, row + _BLOCK_PX), slice(col, col + _BLOCK_PX))
            for row in range(0, max(rows - _BLOCK_PX // 2, 1), _BLOCK_PX)
            for col in range(0, max(cols - _BLOCK_PX // 2, 1), _BLOCK_PX)
        ]
        share = [float(usable[place].mean()) for place in places]
        whole = [place for place, part in zip(places, share, strict=True) if part == 1.0]
        places = _spread([place for place, part in zip(places, share, strict=True) if part > 0.5], _BLOCKS)
        found = [_measure(msi[:, *place], usable[place]) for place in places]
        windows = np.concatenate(found) if found else np.empty((0, 2 * len(_KERNELS) + 1, msi.shape[0]), np.float32)
        blocks = tuple(np.array(msi[:, *place], np.float32) for place in _spread(whole, _KEPT_BLOCKS))
        return cls(windows, blocks)


def _spread(places: list[tuple[slice, slice]], most: int) -> list[tuple[slice, slice]]:
    if len(places) <= most:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]


def _measure(msi: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Statistics of the windows of a block, shape (window, 7, msi band)."""
    count = msi.shape[0]
    image = np.where(usable, msi, 0.0).astype(np.float64)
    clean = uniform_filter(usable.astype(np.float64), WINDOW_PX + 2 * _REACH_PX, mode="constant") > 1.0 - 1e-6
    inner = (slice(WINDOW_PX // 2, None, WINDOW_PX // 2), slice(WINDOW_PX // 2, None, WINDOW_PX // 2))
    keep = clean[inner].ravel()

    def local(images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means of images (image, row, col) in the windows, shape (window, image)."""
        mean = uniform_filter(images, (0, WINDOW_PX, WINDOW_PX))[:, *inner]
        return np.asarray(mean.reshape(len(images), -1).T[keep], np.float64)

    left, own = [], []
    first, second = np.tril_indices(count)
    alive = np.ones(int(keep.sum()), bool)
    sums: NDArray[np.float64] | None = None
    for index, kernel in enumerate(_KERNELS):
        detail = convolve(image, kernel[None], mode="nearest")
        # Constant windows (saturated pixels, filled gaps) hold no noise to measure.
        constant = (np.abs(detail) < _NOTHING).any(axis=0).astype(np.float64)
        found = local(np.concatenate([detail[first] * detail[second], constant[None]]))
        gram = np.empty((len(found), count, count))
        gram[:, first, second] = gram[:, second, first] = found[:, :-1]
        power = np.einsum("nii->ni", gram)
        alive &= (power > _NOTHING**2).all(axis=1) & (found[:, -1] < _MOST_CONSTANT)
        loaded = gram + (1e-9 * power.sum(axis=1) / count + 1e-14)[:, None, None] * np.eye(count)
        if index == 0:
            sums = _sums(loaded.sum(axis=0))
        left.append(_unexplained(loaded, sums))
        own.append(power)
    return np.stack([*left, *own, local(image**2)], axis=1)[alive].astype(np.float32)


def _sums(gram: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """How bands follow from those before them, shape (msi band, msi band); None where none does, as in measurements.

    A copy of a band, or a sum of bands, has their noise, and what it explains of them is not free of noise.
    """
    size = np.sqrt(np.maximum(np.diag(gram), _TINY))
    alike = gram / size / size[:, None]
    if np.linalg.eigvalsh(alike)[0] > _SAME:
        return None
    own: list[int] = []
    for band in range(len(gram)):
        tried = [*own, band]
        if np.linalg.eigvalsh(alike[np.ix_(tried, tried)])[0] > _SAME:
            own = tried
    sums = np.zeros_like(gram)
    sums[:, own] = np.linalg.solve(alike[np.ix_(own, own)], alike[own]).T * size[:, None] / size[own]
    sums[own] = np.eye(len(gram))[own]
    return sums


def _unexplained(gram: NDArray[np.float64], sums: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Variance of every band's detail that the others leave in every window, shape (window, msi band)."""
    if sums is None:
        return np.asarray(1.0 / np.einsum("nii->ni", np.linalg.inv(gram)))
    own = np.flatnonzero(sums.any(axis=0))
    return np.asarray(1.0 / np.einsum("nii->ni", np.linalg.inv(gram[:, own][:, :, own])) @ (sums[:, own] ** 2).T)


def noise_features(windows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Describe all windows of a scene to the network.

    Parameters
    ----------
    windows
        Shape (window, 7, msi band), at least one.

    Returns
    -------
    features : numpy.ndarray
        Shape (msi band, feature).
    reference : numpy.ndarray
        Log of the residual deviation of quiet windows, shape (msi band,).
    """
    values = windows.astype(np.float64)
    number = len(_KERNELS)
    rows = []
    for index in range(number):
        rows.append(np.quantile(values[:, index], _LEFT_QUANTILES, axis=0))
        rows.append(np.quantile(values[:, number + index], _OWN_QUANTILES, axis=0))
    deviations = 0.5 * np.log(np.concatenate(rows) + _TINY)
    reference = deviations[_REFERENCE]
    relative = reference - 0.5 * np.log(values[:, -1].mean(axis=0) + _TINY)
    features = np.concatenate([
        np.delete(deviations, _REFERENCE, axis=0) - reference,
        (relative - np.median(relative))[None], (relative - relative.min())[None], relative[None],
        np.full((1, relative.size), float(relative.size)),
    ])  # fmt: skip
    return features.T, reference


@functools.cache
def _network() -> dict[str, NDArray[np.float64]]:
    with files("hsfuse.fusion").joinpath("guide_noise.npz").open("rb") as stream, np.load(stream) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}


def guide_noise(samples: list[GuideSample]) -> NDArray[np.float64] | None:
    """Turn the samples of a scene into the noise of every band.

    Parameters
    ----------
    samples
        Of all strips.

    Returns
    -------
    numpy.ndarray
        Standard deviation, shape (msi band,); None when there are too few windows.
    """
    if sum(len(sample.windows) for sample in samples) < LEAST_WINDOWS:
        return None
    features, reference = noise_features(np.concatenate([sample.windows for sample in samples]))
    net = _network()
    x = np.clip((features - net["mean"]) / net["spread"], -_LARGEST_FEATURE, _LARGEST_FEATURE)
    hidden = x @ net["weight1"].T + net["bias1"]
    hidden = hidden / (1.0 + np.exp(-hidden))
    answer = (hidden @ net["weight2"].T + net["bias2"])[:, 0]
    return np.asarray(np.exp(reference + np.clip(answer, *_ANSWERS)))
