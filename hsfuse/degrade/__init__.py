"""Sensor degradation: point spread function, decimation, interpolation, spectral response.

One package decides where a pixel's centre is: pixel (i, j) of the coarse grid covers rows ``i*r .. i*r + r - 1``
and the like columns of the fine grid, so its centre lies at fine position ``i*r + (r - 1)/2``. Both
:func:`lowpass_decimate` and :func:`upsample` keep to that for odd and even ratios; a half-pixel slip between
them is the main cause of poor multiresolution fusion.

Torch is imported on first use, so that knowing a :class:`Psf` costs nothing. The width of a point spread function is
estimated by :mod:`hsfuse.degrade.psf_estimation`.
"""

from hsfuse.degrade.decimation import (
    decimate_separable,
    lowpass_decimate,
    lowpass_decimate_array,
    masked_lowpass_decimate_array,
    smooth,
    smooth_array,
)
from hsfuse.degrade.interpolation import MAX_OFFSET_PX, UPSAMPLE_HALO_PX, inject, upsample, upsample_array
from hsfuse.degrade.psf import (
    MAX_FWHM_PX,
    MIN_FWHM_PX,
    NO_OFFSET,
    SEARCHED_OFFSET_PX,
    Offset,
    Psf,
    displaced_kernels,
    psf_kernel,
)
from hsfuse.degrade.response import apply_srf
from hsfuse.degrade.windows import Window

__all__ = [
    "MAX_FWHM_PX",
    "MAX_OFFSET_PX",
    "MIN_FWHM_PX",
    "NO_OFFSET",
    "SEARCHED_OFFSET_PX",
    "UPSAMPLE_HALO_PX",
    "Offset",
    "Psf",
    "Window",
    "apply_srf",
    "decimate_separable",
    "displaced_kernels",
    "inject",
    "lowpass_decimate",
    "lowpass_decimate_array",
    "masked_lowpass_decimate_array",
    "psf_kernel",
    "smooth",
    "smooth_array",
    "upsample",
    "upsample_array",
]
