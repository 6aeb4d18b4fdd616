"""How the HSI really sees what the MSI sees: its blur and what is left of a shift, found on the pair itself.

Co-registration and nominal PSF are good to a tenth of a pixel or so, and on a noise-free pair that tenth costs four
decibels. The MSI bands that the HSI itself shows (its bands under the MSI's responses) carry little noise, and the MSI,
blurred and shifted, must look like them: width and shift come out to a few thousandths of a pixel. The shift is taken
along when the HSI is interpolated, so it costs no resampling of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import MAX_FWHM_PX, MIN_FWHM_PX, SEARCHED_OFFSET_PX, Psf, masked_lowpass_decimate_array
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.parallel import side_by_side, threads_for

_MOST_THREADS = 8
_TOLERANCE_PX = 0.003
_LEAST_EXPLAINED = 0.5
"""Of the detail that the HSI has in the MSI's bands: where less is common to both, other things than blur and shift
differ, and the best fit means nothing."""
_EDGE_PX = 0.02
"""A best fit this close to the search's limits is none."""


def calibrate(strips: Sequence[LowResolutionStrip], context: FusionContext) -> Calibration | None:
    """Find blur and shift; None where the strips do not hold the fine MSI, or too little of a scene to tell."""
    from hsfuse.degrade.psf_estimation import estimate_psf

    pairs = []
    for strip in strips:
        hsi, fine = strip.hsi, strip.below(context.ratio)
        if fine is None:
            continue
        if context.srf is not None:
            covered = context.srf.sum(axis=1) > 0
            if covered.any():
                hsi = np.tensordot(context.srf[covered].astype(np.float32), hsi, axes=1)
        pairs.append((hsi, fine, strip.valid))
    if not pairs:
        return None
    found = estimate_psf(pairs, context.ratio, tolerance=_TOLERANCE_PX, least_explained=_LEAST_EXPLAINED)
    if found is None or max(map(abs, found.offset_px)) > SEARCHED_OFFSET_PX - _EDGE_PX:
        return None
    if not MIN_FWHM_PX + _EDGE_PX < found.fwhm_px < MAX_FWHM_PX - _EDGE_PX:
        return None
    return Calibration(Psf(found.fwhm_px), found.offset_px)


def all_recalibrated(
    strips: Iterable[LowResolutionStrip], calibration: Calibration, ratio: int
) -> list[LowResolutionStrip]:
    """Return strips as :func:`recalibrated` does, side by side."""
    return list(
        side_by_side(lambda strip: recalibrated(strip, calibration, ratio), strips, threads_for(_MOST_THREADS))
    )  # fmt: skip


def recalibrated(strip: LowResolutionStrip, calibration: Calibration, ratio: int) -> LowResolutionStrip:
    """Return a strip whose low-resolution MSI is what the HSI would have seen of it."""
    fine = strip.fine
    if fine is None:
        return strip
    return strip.once((calibration, ratio), lambda: _recalibrated(strip, fine, calibration, ratio))


def _recalibrated(
    strip: LowResolutionStrip, fine: NDArray[np.float32], calibration: Calibration, ratio: int
) -> LowResolutionStrip:
    usable = np.asarray(np.isfinite(fine).all(axis=0))
    coarse, seen = masked_lowpass_decimate_array(fine, usable, ratio, calibration.psf, offset_px=calibration.offset_px)
    rows = slice(strip.fine_above, strip.fine_above + strip.hsi.shape[1])
    valid = strip.valid & seen[rows]
    repaired = None if strip.repaired is None else strip.repaired & ~valid
    low = np.where(valid, coarse[:, rows], strip.msi).astype(np.float32)
    return replace(strip, msi=low, valid=valid, repaired=repaired)
