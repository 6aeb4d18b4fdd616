"""Band positions for simulated PRISMA products: slots, centres and widths of a typical processor version.

A PRISMA cube has 66 VNIR and 173 SWIR slots, both stored from long to short wavelength. Current products leave the
first three VNIR and the last two SWIR slots empty (63 + 171 bands), products of 2019 and 2020 leave one SWIR slot
empty (66 + 172). The centres here follow a smooth dispersion curve through the published end points and spacings
(VNIR 407.0 to 977.4 nm, 7.2 to 11 nm apart; SWIR 943.4 to 2497.1 nm, 6.5 to 11.5 nm apart); they are nobody's
calibration, and no reader may rely on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.spectral import BandTable


@dataclass(frozen=True)
class _Dispersion:
    """Spacing and width of one detector along its bands, from short to long wavelength."""

    bands: int
    first_nm: float
    last_nm: float
    at: tuple[float, ...]
    spacing_nm: tuple[float, ...]
    fwhm_nm: tuple[float, ...]

    def centres(self, before: int, after: int) -> NDArray[np.float64]:
        """Centres of the nominal bands with ``before`` more below and ``after`` more above, ascending."""
        position = (np.arange(self.bands - 1) + 0.5) / (self.bands - 1)
        steps = np.interp(position, self.at, self.spacing_nm)
        steps *= (self.last_nm - self.first_nm) / steps.sum()
        centres = self.first_nm + np.concatenate([[0.0], np.cumsum(steps)])
        below = self.first_nm - steps[0] * np.arange(before, 0, -1)
        above = self.last_nm + steps[-1] * np.arange(1, after + 1)
        return np.concatenate([below, centres, above])

    def widths(self, before: int, after: int) -> NDArray[np.float64]:
        """Full widths at half maximum, in the order of :meth:`centres`."""
        position = np.arange(-before, self.bands + after) / (self.bands - 1)
        return np.interp(position, self.at, self.fwhm_nm)


VNIR_SLOTS, SWIR_SLOTS = 66, 173

_VNIR = _Dispersion(
    bands=63, first_nm=407.0, last_nm=977.4,
    at=(0.0, 0.06, 0.14, 0.25, 0.4, 0.55, 0.7, 0.88, 1.0),
    spacing_nm=(8.9, 7.7, 7.3, 7.5, 8.3, 9.6, 10.4, 10.7, 10.3),
    fwhm_nm=(11.4, 9.6, 9.1, 9.1, 10.0, 11.4, 12.5, 13.1, 13.0),
)  # fmt: skip
_SWIR = _Dispersion(
    bands=171, first_nm=943.4, last_nm=2497.1,
    at=(0.0, 0.03, 0.08, 0.15, 0.24, 0.36, 0.5, 0.65, 0.8, 0.92, 1.0),
    spacing_nm=(8.0, 9.4, 10.2, 10.9, 11.2, 10.7, 9.8, 8.8, 7.9, 7.1, 6.7),
    fwhm_nm=(10.9, 12.2, 13.4, 14.3, 14.6, 14.1, 13.3, 11.8, 10.6, 9.8, 9.2),
)  # fmt: skip


def default_prisma_bands(vnir: int = 63, swir: int = 171) -> BandTable:
    """Return the acquired bands of a simulated product.

    Parameters
    ----------
    vnir
        Number of VNIR bands (1 to 66). Fewer than 66 leave the slots of the longest wavelengths empty.
    swir
        Number of SWIR bands (1 to 173). Fewer than 173 leave the slots of the shortest wavelengths empty.

    Returns
    -------
    BandTable
        VNIR bands, then SWIR bands, each ascending in wavelength; ``slot`` is the index along the band axis of the
        stored cube, which runs the other way. The detectors overlap around 950 nm as the real ones do.

    Raises
    ------
    UsageError
        A count is outside its detector's slots.
    """
    if not 1 <= vnir <= VNIR_SLOTS or not 1 <= swir <= SWIR_SLOTS:
        raise UsageError(f"PRISMA has 1 to {VNIR_SLOTS} VNIR and 1 to {SWIR_SLOTS} SWIR bands, not {vnir} and {swir}.")
    # VNIR: the nominal 63 bands fill the last slots; further ones lie above 977 nm.
    vnir_extra = VNIR_SLOTS - _VNIR.bands
    vnir_slot = np.arange(VNIR_SLOTS)[::-1][:vnir]
    # SWIR: the nominal 171 bands fill the first slots; further ones lie below 943 nm.
    swir_extra = SWIR_SLOTS - _SWIR.bands
    swir_slot = np.arange(SWIR_SLOTS)[::-1][SWIR_SLOTS - swir :]
    return BandTable.make(
        np.concatenate([_VNIR.centres(0, vnir_extra)[:vnir], _SWIR.centres(swir_extra, 0)[SWIR_SLOTS - swir :]]),
        np.concatenate([_VNIR.widths(0, vnir_extra)[:vnir], _SWIR.widths(swir_extra, 0)[SWIR_SLOTS - swir :]]),
        detector=("VNIR",) * vnir + ("SWIR",) * swir,
        slot=np.concatenate([vnir_slot, swir_slot]),
    )
