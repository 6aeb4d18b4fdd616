"""What differs when both images of a pair show different days: changes of the MSI, with the truth about where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

CHANGES = ("parcels", "shadow", "cloud", "season", "haze", "mix")
"""What a pair may differ in: 12 % of the ground shows other ground in straight-edged parcels; 6 % lies in cast shadow
(x 0.55); 3 % under missed cloud; plants redder (x 1.3) and darker in the near infrared (x 0.75) in patches; haze and a
ramp of gain over the scene; all of them."""
PARCEL_SHARE, SHADOW_SHARE, CLOUD_SHARE = 0.12, 0.06, 0.03
SHADOW_LEVEL = 0.55
RED, NIR = 1.3, 0.75


def changed_guide(msi: FloatCube, kind: str, seed: int, *, red: int = 2, nir: int = 3) -> tuple[FloatCube, BoolArray]:
    """Return the MSI of another day, and where it shows something else than the HSI.

    Parameters
    ----------
    msi
        Free of noise, shape (msi band, row, col).
    kind
        One of :data:`CHANGES`.
    seed
        Equal seeds give equal changes.
    red, nir
        Bands that plants are told by.
    """
    rng = np.random.default_rng([seed, CHANGES.index(kind)])
    guide = msi.astype(np.float64)
    where = np.zeros(msi.shape[1:], bool)
    if kind in ("season", "mix"):
        guide, mask = _season(guide, rng, red, nir)
        where |= mask if kind == "season" else False
    if kind in ("parcels", "mix"):
        mask = parcels(where.shape, PARCEL_SHARE * (0.5 if kind == "mix" else 1.0), rng)
        other = np.roll(msi, [size // 2 + int(rng.integers(-5, 6)) for size in where.shape], axis=(1, 2))
        guide, where = np.where(mask, other, guide), where | mask
    if kind in ("shadow", "mix"):
        mask = blobs(where.shape, SHADOW_SHARE * (0.5 if kind == "mix" else 1.0), 6.0, rng)
        guide, where = np.where(mask, SHADOW_LEVEL * guide, guide), where | mask
    if kind in ("cloud", "mix"):
        mask = blobs(where.shape, CLOUD_SHARE, 5.0, rng)
        opacity = np.clip(gaussian_filter(mask.astype(np.float64), 0.7) * 1.1, 0.0, 1.0)
        bright = 0.9 * np.quantile(msi, 0.99, axis=(1, 2))[:, None, None]
        guide = guide + opacity * (bright * (0.9 + 0.1 * smooth_noise(where.shape, 3.0, rng)) - guide)
        where |= opacity > 0.1
    if kind in ("haze", "mix"):
        guide = _haze(guide, rng)
    return guide.astype(np.float32), where


def _season(
    guide: NDArray[np.float64], rng: np.random.Generator, red: int, nir: int
) -> tuple[NDArray[np.float64], BoolArray]:
    index = (guide[nir] - guide[red]) / np.maximum(guide[nir] + guide[red], 1e-4)
    plants = np.clip((index - 0.25) / 0.2, 0.0, 1.0)
    patches = np.clip(0.6 + 0.5 * smooth_noise(index.shape, 8.0, rng), 0.0, 1.0) * plants
    out = guide.copy()
    out[red] *= 1.0 + (RED - 1.0) * patches
    out[nir] *= 1.0 + (NIR - 1.0) * patches
    return out, patches > 0.3


def _haze(guide: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    rows, cols = (np.linspace(-1.0, 1.0, size) for size in guide.shape[1:])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    ramp = 0.5 + 0.35 * (np.sin(angle) * rows[:, None] + np.cos(angle) * cols[None, :])
    ramp = np.clip(ramp + 0.15 * smooth_noise(guide.shape[1:], 20.0, rng), 0.0, 1.0)
    strength = 0.12 * guide.mean() * np.linspace(1.0, 0.4, len(guide))[:, None, None]
    return np.asarray(guide * (1.0 - 0.15 * ramp) + strength * ramp)


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of unit variance."""
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-12))


def blobs(shape: tuple[int, ...], share: float, sigma: float, rng: np.random.Generator) -> BoolArray:
    """Smooth patches that cover a share of the ground."""
    field = smooth_noise(shape, sigma, rng)
    return np.asarray(field > np.quantile(field, 1.0 - share), dtype=np.bool_)


def parcels(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> BoolArray:
    """Rectangles askew to the grid, until they cover the share."""
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    mask = np.zeros(shape, bool)
    for _ in range(200):
        if mask.mean() >= share:
            break
        centre = rng.uniform(0.0, 1.0, 2) * shape
        angle = rng.uniform(0.0, np.pi)
        length, width = rng.uniform(8.0, 22.0), rng.uniform(6.0, 14.0)
        along = (rows - centre[0]) * np.cos(angle) + (cols - centre[1]) * np.sin(angle)
        across = -(rows - centre[0]) * np.sin(angle) + (cols - centre[1]) * np.cos(angle)
        mask |= (np.abs(along) < length / 2.0) & (np.abs(across) < width / 2.0)
    return mask
