"""Random seasons, among other changes, that the refinement of a corrected guide is trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pair_changes import _haze, blobs, parcels, smooth_noise
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def random_guide(msi: FloatCube, rng: np.random.Generator, *, plants: bool) -> tuple[FloatCube, FloatArray, BoolArray]:
    """Return a guide of another day.

    Parameters
    ----------
    msi
        Free of noise, shape (msi band, row, col).
    rng
        Draws everything.
    plants
        Whether the bands are blue, green, red and near infrared, so that plants may turn.

    Returns
    -------
    guide : numpy.ndarray
        The shape of ``msi``.
    turned : numpy.ndarray
        How far each pixel has turned, 0 to 1, shape (row, col).
    foreign : numpy.ndarray
        Where it shows other ground or light, the same shape.
    """
    guide, turned = msi.astype(np.float64), np.zeros(msi.shape[1:])
    foreign = np.zeros(turned.shape, bool)
    kind = rng.choice(["season", "mix", "haze", "foreign"], p=[0.5, 0.42, 0.05, 0.03])
    if kind in ("season", "mix"):
        guide, turned = (
            _like_plants(guide, rng) if plants and rng.random() < 0.5 else _any_season(guide, rng, plants=plants)
        )
    if kind in ("mix", "foreign"):
        guide, foreign = _foreign(guide, msi, rng)
    if kind == "haze" or rng.random() < {"mix": 0.7, "season": 0.1}.get(str(kind), 0.0):
        guide = _haze(guide, rng)
    return guide.astype(np.float32), turned, foreign


def _foreign(guide: FloatArray, msi: FloatCube, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
    """Parcels, shadows and clouds, each or not."""
    foreign = np.zeros(guide.shape[1:], bool)
    if rng.random() < 0.75:
        mask = parcels(foreign.shape, rng.uniform(0.02, 0.1), rng)
        other = np.roll(msi, [size // 2 + int(rng.integers(-5, 6)) for size in foreign.shape], axis=(1, 2))
        guide, foreign = np.where(mask, other, guide), foreign | mask
    if rng.random() < 0.65:
        mask = blobs(foreign.shape, rng.uniform(0.01, 0.05), rng.uniform(4.0, 8.0), rng)
        guide, foreign = np.where(mask, rng.uniform(0.4, 0.7) * guide, guide), foreign | mask
    if rng.random() < 0.65:
        mask = blobs(foreign.shape, rng.uniform(0.01, 0.04), 5.0, rng)
        opacity = np.clip(gaussian_filter(mask.astype(np.float64), 0.7) * 1.1, 0.0, 1.0)
        bright = 0.9 * np.quantile(msi, 0.99, axis=(1, 2))[:, None, None]
        guide = guide + opacity * (bright * (0.9 + 0.1 * smooth_noise(foreign.shape, 3.0, rng)) - guide)
        foreign = foreign | (opacity > 0.02)
    return guide, foreign


def _fields(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Fields, each with a number of its own, 0 to 1."""
    count = max(int(shape[0] * shape[1] / rng.uniform(12.0, 40.0) ** 2), 2)
    points = rng.uniform(0.0, 1.0, (count, 2)) * shape
    _, nearest = cKDTree(points).query(np.argwhere(np.ones(shape, bool)))
    value = rng.uniform(0.0, 1.0, count) ** rng.uniform(0.3, 1.5)
    return np.asarray(value[nearest].reshape(shape))


def _index(guide: FloatArray, first: int, second: int) -> FloatArray:
    if first == second:
        return guide[first]
    return np.asarray((guide[second] - guide[first]) / np.maximum(guide[second] + guide[first], 1e-4))


def _like_plants(guide: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Plants by their vegetation index, which get redder and darker in the near infrared, or the other way round."""
    red, nir = 2, 3
    index = _index(guide, red, nir)
    start, soft = rng.uniform(0.15, 0.38), rng.uniform(0.1, 0.3)
    if rng.random() < 0.35:
        start = np.quantile(index, rng.uniform(0.1, 0.8))
    turned = np.clip((index - start) / soft, 0.0, 1.0)
    if rng.random() < 0.2:
        turned *= _fields(index.shape, rng)
    else:
        noise = smooth_noise(index.shape, rng.uniform(5.0, 12.0), rng)
        turned *= np.clip(rng.uniform(0.45, 0.75) + rng.uniform(0.35, 0.6) * noise, 0.0, 1.0)
    gain = np.zeros(len(guide))
    sign = 1.0 if rng.random() < 0.8 else -1.0
    gain[red], gain[nir] = sign * rng.uniform(0.12, 0.38), -sign * rng.uniform(0.15, 0.42)
    if rng.random() < 0.3:
        gain += rng.normal(0.0, 0.06, len(guide))
    return guide * (1.0 + (np.exp(gain) - 1.0)[:, None, None] * turned), turned


def _any_season(guide: FloatArray, rng: np.random.Generator, *, plants: bool) -> tuple[FloatArray, FloatArray]:
    """Ground by an index of any two bands, whose bands change in any way."""
    bands = len(guide)
    if plants and rng.random() < 0.75:
        first, second = 2, 3
    else:
        first, second = rng.choice(bands, 2, replace=bands < 2)
    index = _index(guide, first, second)
    if rng.random() < 0.5:
        start, soft = rng.uniform(0.05, 0.4), rng.uniform(0.08, 0.35)
    else:
        start, soft = np.quantile(index, rng.uniform(0.1, 0.9)), rng.uniform(0.3, 2.0) * index.std() + 1e-6
    turned = np.clip((index - start) / soft, 0.0, 1.0)
    if rng.random() < 0.08:
        turned = np.ones_like(turned)
    if rng.random() < 0.3:
        turned *= _fields(index.shape, rng)
    else:
        noise = smooth_noise(index.shape, np.exp(rng.uniform(np.log(3.0), np.log(20.0))), rng)
        turned *= np.clip(rng.uniform(0.2, 0.9) + rng.uniform(0.1, 0.7) * noise, 0.0, 1.0)
    gain = np.zeros(bands)
    if rng.random() < 0.75:
        sign = rng.choice([-1.0, 1.0], p=[0.35, 0.65])
        gain[first], gain[second] = sign * rng.uniform(0.08, 0.4), -sign * rng.uniform(0.1, 0.4)
    else:
        gain[first], gain[second] = rng.uniform(-0.4, 0.4, 2)
    if rng.random() < 0.4:
        gain += rng.normal(0.0, 0.1, bands)
    if rng.random() < 0.5:
        return guide * (1.0 + (np.exp(gain) - 1.0)[:, None, None] * turned), turned
    return guide * np.exp(gain[:, None, None] * turned), turned
