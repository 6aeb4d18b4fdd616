"""What both simulated sensors share: atmosphere, signal-to-noise ratio, clouds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hsfuse.simulate.texture import FloatArray, fractal

# Centre (nm), depth (optical, vertical) and half width (nm) of the absorption that matters at 10 nm resolution.
_ABSORPTION = (
    (687.0, 0.10, 4.0), (719.0, 0.06, 6.0), (761.0, 0.55, 4.5), (820.0, 0.10, 10.0), (908.0, 0.20, 12.0),
    (940.0, 0.80, 20.0), (1130.0, 0.95, 22.0), (1268.0, 0.10, 10.0), (1380.0, 7.0, 22.0), (1410.0, 6.0, 28.0),
    (1455.0, 1.3, 20.0), (1850.0, 7.0, 24.0), (1900.0, 7.0, 28.0), (1950.0, 2.2, 18.0), (2008.0, 0.7, 12.0),
    (2060.0, 0.35, 10.0), (2450.0, 0.2, 60.0), (2580.0, 1.2, 60.0),
)  # fmt: skip
OPAQUE = 0.045
"""Below this transmittance an atmospheric correction returns nothing usable."""
SNR_REFLECTANCE = 0.3
"""Reflectance for which the signal-to-noise ratio is given."""


def transmittance(wavelength_nm: ArrayLike) -> NDArray[np.float64]:
    """Rough vertical transmittance of the gases of the air (sums of Gaussian bands; water vapour of 2 g/cm2)."""
    nm = np.asarray(wavelength_nm, dtype=np.float64)
    depth = np.zeros_like(nm)
    for centre, strength, width in _ABSORPTION:
        depth += strength * np.exp(-0.5 * ((nm - centre) / width) ** 2)
    return np.asarray(np.exp(-2.0 * depth))


def top_of_atmosphere(reflectance: FloatArray, wavelength_nm: ArrayLike) -> FloatArray:
    """Reflectance (band, ...) of the surface as it is seen from above the air.

    Molecules and a thin aerosol scatter light back before it reaches the ground (a tenth in the blue), gases absorb on
    both ways.
    """
    nm = np.asarray(wavelength_nm, dtype=np.float64)
    path = 0.055 * (nm / 450.0) ** -4.08 + 0.008 * (nm / 450.0) ** -1.3
    through = transmittance(nm) * (1.0 - path)
    shape = (-1, *(1,) * (reflectance.ndim - 1))
    added, share = (part.astype(np.float32).reshape(shape) for part in (path, through))
    return np.asarray(added + share * reflectance, dtype=np.float32)


def prisma_snr(wavelength_nm: ArrayLike) -> NDArray[np.float64]:
    """Signal-to-noise ratio of PRISMA over bright vegetation or soil.

    About 400 in the near infrared, less below 700 and above 1600 nm, poor in the first and last bands, and lower
    where the air absorbs (levels after Cogliati et al. 2021).
    """
    nm = np.asarray(wavelength_nm, dtype=np.float64)
    level = np.interp(
        nm,
        (400.0, 415.0, 430.0, 480.0, 550.0, 650.0, 750.0, 900.0, 1100.0, 1300.0, 1600.0, 1750.0, 2100.0, 2300.0,
         2360.0, 2430.0, 2500.0),
        (35.0, 60.0, 110.0, 190.0, 250.0, 300.0, 400.0, 420.0, 380.0, 330.0, 300.0, 260.0, 170.0, 130.0,
         90.0, 50.0, 25.0),
    )  # fmt: skip
    return np.asarray(level * np.maximum(transmittance(nm), 0.01) ** 0.8)


def noise_sigma(reflectance: FloatArray, snr: NDArray[np.floating]) -> FloatArray:
    """Standard deviation of the noise, shape of ``reflectance`` (band, ...): a constant and a photon share."""
    floor = (SNR_REFLECTANCE / np.asarray(snr, dtype=np.float32)).reshape(-1, *(1,) * (reflectance.ndim - 1))
    photons = np.clip(reflectance, 0.0, None) / np.float32(SNR_REFLECTANCE)
    return np.asarray(floor * np.sqrt(np.float32(0.3) + np.float32(0.7) * photons), dtype=np.float32)


def cloud_reflectance(wavelength_nm: ArrayLike) -> NDArray[np.float64]:
    """Reflectance of a thick water cloud."""
    nm = np.asarray(wavelength_nm, dtype=np.float64)
    return np.asarray(
        np.interp(nm, (400, 900, 1000, 1200, 1300, 1450, 1650, 1800, 1950, 2200, 2500),
                  (0.80, 0.78, 0.76, 0.70, 0.68, 0.42, 0.55, 0.48, 0.28, 0.38, 0.28))
    )  # fmt: skip


@dataclass(frozen=True)
class Clouds:
    """Opacity of clouds over a grid in 1/255, and where their shadow falls.

    Attributes
    ----------
    opacity
        Shape (row, col).
    shadow_px
        Offset of the shadow, (rows, cols).
    """

    opacity: NDArray[np.uint8]
    shadow_px: tuple[int, int]

    @classmethod
    def random(
        cls, shape: tuple[int, int], rng: np.random.Generator, *, fraction: float, pixel_m: float, shadow_m: float
    ) -> Clouds | None:
        """Draw clouds that hide a ``fraction`` of the grid; None when there are none."""
        if fraction <= 0.0:
            return None
        outer = min(3000.0 / pixel_m, max(shape))
        texture = fractal(shape, rng, slope=3.0, outer_px=outer)
        threshold = float(np.quantile(texture, 1.0 - min(fraction, 1.0)))
        # The rim is thin: opacity grows over half a standard deviation of the texture.
        opacity = np.clip((texture - threshold) * 2.0 + 0.05, 0.0, 1.0) * (texture >= threshold)
        length = shadow_m / pixel_m
        return cls((opacity * 255.0).astype(np.uint8), (-round(0.8 * length), round(0.6 * length)))

    def block(self, rows: slice, cols: slice) -> tuple[FloatArray, FloatArray]:
        """Opacity and shadow strength (0 to 1) of a block, each (row, col)."""
        opacity = self.opacity[rows, cols].astype(np.float32) / np.float32(255.0)
        height, width = self.opacity.shape
        source_row = np.arange(height)[rows] - self.shadow_px[0]
        source_col = np.arange(width)[cols] - self.shadow_px[1]
        inside = ((source_row >= 0) & (source_row < height))[:, None] & ((source_col >= 0) & (source_col < width))
        clipped = self.opacity[np.ix_(np.clip(source_row, 0, height - 1), np.clip(source_col, 0, width - 1))]
        shadow = np.where(inside, clipped.astype(np.float32) / np.float32(255.0), np.float32(0.0)) * (1.0 - opacity)
        return opacity, shadow.astype(np.float32)

    def cover(self, reflectance: FloatArray, wavelength_nm: ArrayLike, rows: slice, cols: slice) -> FloatArray:
        """Reflectance (band, row, col) of a block as seen with clouds and their shadows."""
        opacity, shadow = self.block(rows, cols)
        if not opacity.any() and not shadow.any():
            return reflectance
        bright = cloud_reflectance(wavelength_nm).astype(np.float32)[:, None, None]
        # Light in a shadow comes from the blue sky.
        sky = (0.35 + 0.15 * np.exp(-(np.asarray(wavelength_nm) - 450.0) / 200.0)).astype(np.float32)[:, None, None]
        lit = reflectance * (1.0 - shadow * (1.0 - np.minimum(sky, 0.6)))
        return np.asarray(lit + opacity * (bright - lit), dtype=np.float32)


def gaussian_blur(maps: FloatArray, fwhm_px: float) -> FloatArray:
    """Blur every map of a (map, row, col) stack with a Gaussian of the given width (edges repeat)."""
    sigma = fwhm_px / 2.354820045
    if sigma < 0.05:
        return maps
    out = np.empty_like(maps)
    for source, target in zip(maps, out, strict=True):
        ndimage.gaussian_filter(source, sigma, output=target, mode="nearest", truncate=4.0)
    return out
