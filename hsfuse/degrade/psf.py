"""The point spread function of a coarse pixel, as weights on a finer grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError

MIN_FWHM_PX, MAX_FWHM_PX = 0.6, 2.4
"""Widths between which :func:`hsfuse.degrade.psf_estimation.estimate_psf` searches, in HSI pixels."""
SEARCHED_OFFSET_PX = 0.5
"""Largest displacement that the same searches for, HSI pixels: pairs that were co-registered have no larger one."""
Offset = tuple[float, float]
"""How far (row, col) coarse pixels lie off their grid towards larger index, in coarse pixels."""
NO_OFFSET: Offset = (0.0, 0.0)
_TRUNCATE_SIGMA = 4.0
_FWHM_TO_SIGMA = 1.0 / math.sqrt(8.0 * math.log(2.0))


@dataclass(frozen=True)
class Psf:
    """Gaussian point spread function of the HSI, its width in HSI pixels (full width at half maximum).

    It is the blur *relative to the MSI*: what turns an MSI pixel's footprint into an HSI pixel's.
    """

    fwhm_px: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fwhm_px) and 0.0 < self.fwhm_px <= 10.0):
            raise UsageError(
                f"The PSF width {self.fwhm_px:g} px is not plausible.",
                hint="Give the full width at half maximum in HSI pixels, above 0 and at most 10 (usually about 1).",
            )

    def reach_px(self, ratio: int) -> int:
        """HSI pixels on each side of a pixel that its blur looks at."""
        return max(1, -(-(psf_kernel(self, ratio).size - ratio) // (2 * ratio)))


def psf_kernel(psf: Psf, ratio: int, *, offset_px: float = 0.0) -> NDArray[np.float64]:
    """Weights of a coarse pixel's blur along one axis of the fine grid.

    Parameters
    ----------
    psf
        Width of the blur.
    ratio
        Fine pixels per coarse pixel.
    offset_px
        Shift of the kernel's centre, in coarse pixels, towards larger index.

    Returns
    -------
    numpy.ndarray
        Shape (tap,), sum 1. The number of taps has the ratio's parity, so the middle of the kernel is the centre
        of the coarse pixel: on a fine pixel for odd ratios, between two for even ones.
    """
    check_ratio(ratio)
    sigma = psf.fwhm_px * ratio * _FWHM_TO_SIGMA
    reach = max(ratio / 2.0, _TRUNCATE_SIGMA * sigma + abs(offset_px) * ratio)
    side = math.ceil(reach - ratio / 2.0)
    taps = ratio + 2 * side
    position = np.arange(taps) - (taps - 1) / 2.0 - offset_px * ratio
    # Relative to the largest exponent, so that a PSF far narrower than a pixel does not underflow to 0 / 0.
    exponent = -0.5 * (position / sigma) ** 2
    weights = np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def displaced_kernels(psf: Psf, ratio: int, offset_px: Offset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the weights of a blur down the rows and along the columns, of equal number, with displaced centres."""
    kernels = [psf_kernel(psf, ratio, offset_px=float(offset)) for offset in offset_px]
    taps = max(kernel.size for kernel in kernels)
    down, across = (tuple(map(float, np.pad(kernel, (taps - kernel.size) // 2))) for kernel in kernels)
    return down, across


def check_ratio(ratio: int) -> None:
    """Refuse ratios that are not whole numbers of at least 1."""
    if ratio < 1 or int(ratio) != ratio:
        raise UsageError(f"The ratio must be a whole number of at least 1, not {ratio}.")
