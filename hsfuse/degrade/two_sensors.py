"""A pair as two different sensors make it: nothing of a Gaussian on both sides and white noise.

The hyperspectral side has a blur that is wider along the track and half a box, spectral smile, stripes, noise that is
correlated from band to band and grows with the signal, and stands off by a smooth field of sub-pixel displacements. The
multispectral side has a blur of its own, a scale of reflectance that is a few per cent off, and noise that grows with
the signal. Methods are told nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

FloatCube = NDArray[np.float32]

_FIELD_PX = 12.0
"""Width of the displacement's bends, fine pixels."""
_NOISIER_FROM_NM = 1900.0


@dataclass(frozen=True)
class TwoSensors:
    """What is different between the sensors of a pair.

    Attributes
    ----------
    along_px, across_px
        Width (FWHM) of the Gaussian part of the HSI's blur along and across the track, HSI pixels.
    displacement_px, shift_px
        Standard deviation of the local displacement, and length of the common one, HSI pixels.
    smile_nm
        Largest shift of the wavelengths across the track; that of a real PRISMA scene is 1 to 2 nm.
    stripe, noise, shot
        Of the HSI: deviation of the columns, of the noise and of the part that grows with the signal, shares of a
        band's root mean square.
    gain, offset
        Largest relative error and offset (reflectance) of an MSI band.
    msi_fwhm_px, msi_noise
        The MSI's own blur, fine pixels, and its noise as a share of a band's root mean square.
    """

    along_px: float = 1.15
    across_px: float = 0.9
    displacement_px: float = 0.12
    shift_px: float = 0.2
    smile_nm: float = 1.5
    stripe: float = 0.003
    noise: float = 0.006
    shot: float = 0.006
    gain: float = 0.04
    offset: float = 0.006
    msi_fwhm_px: float = 1.2
    msi_noise: float = 0.004

    @classmethod
    def draw(cls, rng: np.random.Generator) -> TwoSensors:
        """Draw a pair of sensors around the default one."""
        level = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
        found = cls()
        return cls(
            along_px=float(rng.uniform(0.95, 1.3)),
            across_px=float(rng.uniform(0.8, 1.05)),
            displacement_px=float(rng.uniform(0.05, 0.2)),
            shift_px=float(rng.uniform(0.0, 0.3)),
            smile_nm=float(rng.uniform(0.0, 2.0)),
            stripe=level * found.stripe,
            noise=level * found.noise,
            shot=level * found.shot,
            msi_fwhm_px=float(rng.uniform(0.9, 1.4)),
            msi_noise=found.msi_noise * float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))),
        )

    def hyperspectral(
        self, truth: FloatCube, centre_nm: NDArray[np.float64], ratio: int, rng: np.random.Generator
    ) -> FloatCube:
        """Degrade a scene (band, row, col) to the HSI, shape (band, row / ratio, col / ratio)."""
        shape = truth.shape[1:]
        smiled = truth + self._smile(shape[1], rng)[None, None] * _slope(truth, centre_nm)
        sigma = [0.0, *(fwhm * ratio / 2.3548 for fwhm in (self.along_px, self.across_px))]
        blurred = gaussian_filter(smiled, sigma, mode="nearest")
        # The detector integrates over half a pixel while the spacecraft moves on.
        blurred = uniform_filter1d(blurred, max(ratio // 2, 2), axis=1, mode="nearest")
        field = gaussian_filter(rng.standard_normal((2, *shape)), (0, _FIELD_PX, _FIELD_PX), mode="reflect")
        field *= self.displacement_px * ratio / np.maximum(field.std(axis=(1, 2), keepdims=True), 1e-9)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        field += self.shift_px * ratio * np.array([np.sin(angle), np.cos(angle)])[:, None, None]
        places = [np.arange(size // ratio) * ratio for size in shape]
        centre = np.meshgrid(*(place + (ratio - 1) / 2 for place in places), indexing="ij")
        at = [c + field[axis][np.ix_(*places)] for axis, c in enumerate(centre)]
        hsi = np.stack([map_coordinates(band, at, order=3, mode="nearest") for band in blurred])
        level = np.sqrt((hsi**2).mean(axis=(1, 2), keepdims=True))
        white = rng.standard_normal(hsi.shape)
        correlated = 0.8 * white + 0.6 * np.roll(white, 1, axis=0)
        noise = (self.noise * level + self.shot * np.sqrt(np.maximum(hsi, 0.0) * level)) * correlated
        noise *= np.where(centre_nm > _NOISIER_FROM_NM, 2.0, 1.0)[:, None, None]
        stripes = self.stripe * level * rng.standard_normal((len(hsi), 1, hsi.shape[2]))
        return np.asarray(hsi + noise + stripes, np.float32)

    def multispectral(self, image: FloatCube, rng: np.random.Generator) -> FloatCube:
        """Degrade what the MSI should see, shape (msi band, row, col)."""
        sigma = self.msi_fwhm_px / 2.3548
        blurred = gaussian_filter(image, (0, sigma, sigma), mode="nearest")
        gain = 1.0 + self.gain * rng.uniform(-1.0, 1.0, (len(image), 1, 1))
        offset = self.offset * rng.uniform(-1.0, 1.0, (len(image), 1, 1))
        seen = np.asarray(gain * blurred + offset)
        level = np.sqrt((seen**2).mean(axis=(1, 2), keepdims=True))
        noise = self.msi_noise * (0.5 * level + 0.5 * np.sqrt(np.maximum(seen, 0.0) * level)) * 2.0
        return np.asarray(seen + noise * rng.standard_normal(seen.shape), np.float32)

    def _smile(self, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Shift of the wavelengths by column, nm: a parabola across the track."""
        place = np.linspace(-1.0, 1.0, width)
        return np.asarray(self.smile_nm * (place**2 - 0.4) * rng.choice([-1.0, 1.0]))


def _slope(cube: FloatCube, centre_nm: NDArray[np.float64]) -> FloatCube:
    """Change of the spectra per nanometre, shape (band, row, col)."""
    if len(centre_nm) < 2:
        return np.zeros_like(cube)
    return np.asarray(np.gradient(cube, centre_nm, axis=0), np.float32)
