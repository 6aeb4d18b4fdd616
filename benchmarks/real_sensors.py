"""Pairs as two different sensors make them: nothing of a Gaussian on both sides and white noise.

The hyperspectral side has a blur that is wider along the track and half a box, spectral smile, stripes, noise that is
correlated from band to band and grows with the signal, and stands off by a smooth field of sub-pixel displacements. The
multispectral side is another spacecraft of the family than the one whose responses are told, has a blur of its own, a
scale of reflectance that is a few per cent off, and noise that grows with the signal. Methods are told nothing of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_scenes import ReferenceScene, sentinel2_responses
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

from hsfuse.simulate.wald import WaldPair

FloatCube = NDArray[np.float32]

_ALONG_PX, _ACROSS_PX = 1.15, 0.9
"""Width (FWHM) of the Gaussian part along and across the track, HSI pixels."""
_DISPLACEMENT_PX, _SHIFT_PX = 0.12, 0.2
_SMILE_NM = 1.5
"""Largest shift of the wavelengths across the track; that of a real PRISMA scene is 1 to 2 nm."""
_STRIPE, _NOISE, _SHOT = 0.003, 0.006, 0.006
_GAIN, _OFFSET = 0.04, 0.006
_MSI_FWHM_PX, _MSI_NOISE = 1.2, 0.004


def real_pair(scene: ReferenceScene, guide: FloatCube, ratio: int, seed: int, data: Path | None = None) -> WaldPair:
    """Degrade a scene by two sensor models; equal names and seeds give equal pairs.

    Parameters
    ----------
    scene
        The truth.
    guide
        The MSI of the day, free of noise, shape (msi band, row, col).
    ratio
        HSI pixel size over MSI pixel size.
    seed
        Decides all that is random.
    data
        Folder with measured responses; None: the package's model.
    """
    rng = np.random.default_rng([seed, *scene.name.encode(), 77])
    rows, cols = (size // ratio * ratio for size in scene.cube.shape[1:])
    truth = np.ascontiguousarray(scene.cube[:, :rows, :cols])
    return WaldPair(
        _hyperspectral(truth, scene.bands.centre_nm, ratio, rng),
        _multispectral(scene, guide[:, :rows, :cols], rng, data), truth,
    )  # fmt: skip


def _hyperspectral(truth: FloatCube, centre_nm: NDArray[np.float64], ratio: int, rng: np.random.Generator) -> FloatCube:
    shape = truth.shape[1:]
    smiled = truth + _smile(shape[1], rng)[None, None] * np.gradient(truth, centre_nm, axis=0)
    sigma = [0.0, *(fwhm * ratio / 2.3548 for fwhm in (_ALONG_PX, _ACROSS_PX))]
    blurred = gaussian_filter(smiled, sigma, mode="nearest")
    # The detector integrates over half a pixel while the spacecraft moves on.
    blurred = uniform_filter1d(blurred, max(ratio // 2, 2), axis=1, mode="nearest")
    field = gaussian_filter(rng.standard_normal((2, *shape)), (0, 12.0, 12.0), mode="reflect")
    field *= _DISPLACEMENT_PX * ratio / np.maximum(field.std(axis=(1, 2), keepdims=True), 1e-9)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    field += _SHIFT_PX * ratio * np.array([np.sin(angle), np.cos(angle)])[:, None, None]
    centre = np.meshgrid(*(np.arange(size // ratio) * ratio + (ratio - 1) / 2 for size in shape), indexing="ij")
    at = [c + field[axis][np.ix_(*(np.arange(s // ratio) * ratio for s in shape))] for axis, c in enumerate(centre)]
    hsi = np.stack([map_coordinates(band, at, order=3, mode="nearest") for band in blurred])
    level = np.sqrt((hsi**2).mean(axis=(1, 2), keepdims=True))
    white = rng.standard_normal(hsi.shape)
    correlated = 0.8 * white + 0.6 * np.roll(white, 1, axis=0)
    noise = (_NOISE * level + _SHOT * np.sqrt(np.maximum(hsi, 0.0) * level)) * correlated
    noise *= np.where(centre_nm > 1900.0, 2.0, 1.0)[:, None, None]
    stripes = _STRIPE * level * rng.standard_normal((len(hsi), 1, hsi.shape[2]))
    return (hsi + noise + stripes).astype(np.float32)


def _smile(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Shift of the wavelengths by column, nm: a parabola across the track."""
    place = np.linspace(-1.0, 1.0, width)
    return np.asarray(_SMILE_NM * (place**2 - 0.4) * rng.choice([-1.0, 1.0]))


def _multispectral(scene: ReferenceScene, guide: FloatCube, rng: np.random.Generator, data: Path | None) -> FloatCube:
    # The other spacecraft's responses over those that are told, from the scene's own spectra.
    from hsfuse.spectral import srf_weights

    other = srf_weights(scene.bands, sentinel2_responses(data, "Sentinel-2B"))
    own = np.tensordot(scene.srf, scene.cube, axes=1)[:, : guide.shape[1], : guide.shape[2]]
    change = np.tensordot(other, scene.cube, axes=1)[:, : guide.shape[1], : guide.shape[2]] - own
    image = gaussian_filter(guide + change, (0, _MSI_FWHM_PX / 2.3548, _MSI_FWHM_PX / 2.3548), mode="nearest")
    gain = 1.0 + _GAIN * rng.uniform(-1.0, 1.0, (len(image), 1, 1))
    offset = _OFFSET * rng.uniform(-1.0, 1.0, (len(image), 1, 1))
    image = gain * image + offset
    level = np.sqrt((image**2).mean(axis=(1, 2), keepdims=True))
    noise = _MSI_NOISE * (0.5 * level + 0.5 * np.sqrt(np.maximum(image, 0.0) * level)) * 2.0
    return (image + noise * rng.standard_normal(image.shape)).astype(np.float32)
