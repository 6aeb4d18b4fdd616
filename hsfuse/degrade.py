"""Sensor degradation: point spread function, decimation, interpolation, spectral response, Wald's protocol.

One module decides where a pixel's centre is: pixel (i, j) of the coarse grid covers rows ``i*r .. i*r + r - 1``
and the like columns of the fine grid, so its centre lies at fine position ``i*r + (r - 1)/2``. Both
:func:`lowpass_decimate` and :func:`upsample` keep to that for odd and even ratios; a half-pixel slip between
them is the main cause of poor multiresolution fusion.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Psf:
    """Gaussian point spread function of the HSI, its width in HSI pixels (full width at half maximum)."""

    fwhm_px: float = 1.0
