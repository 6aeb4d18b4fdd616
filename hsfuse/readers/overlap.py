"""Where two detectors overlap in wavelength, one cut decides which of them supplies each band."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.spectral import BandTable

DEFAULT_CUT_NM = 950.0


@dataclass(frozen=True)
class OverlapReport:
    """What the cut between VNIR and SWIR dropped.

    Attributes
    ----------
    cut_nm
        Wavelength that was asked for: VNIR up to it, SWIR above it.
    used_nm
        The same, moved into the overlap when it lay outside; None when the detectors do not overlap.
    overlap_nm
        Shortest SWIR and longest VNIR centre; None when the detectors do not overlap.
    vnir_dropped_nm, swir_dropped_nm
        Centres of the acquired bands that the product does not offer because of the cut.
    """

    cut_nm: float
    used_nm: float | None
    overlap_nm: tuple[float, float] | None
    vnir_dropped_nm: tuple[float, ...]
    swir_dropped_nm: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of bands dropped."""
        return len(self.vnir_dropped_nm) + len(self.swir_dropped_nm)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def cut_overlap(bands: BandTable, cut_nm: float = DEFAULT_CUT_NM) -> tuple[BandTable, OverlapReport]:
    """Drop the bands of the overlap that the other detector supplies, and sort by wavelength.

    VNIR bands up to ``cut_nm`` stay, and SWIR bands above it. A cut outside the overlap is moved to its nearer
    end, so that no stretch of the spectrum is lost; without an overlap nothing is dropped.

    Parameters
    ----------
    bands
        Bands whose ``detector`` is ``"VNIR"`` or ``"SWIR"`` (others are kept), in any order.
    cut_nm
        Wavelength of the cut.

    Raises
    ------
    UsageError
        The cut is not a positive number.
    """
    if not math.isfinite(cut_nm) or cut_nm <= 0:
        raise UsageError(f"The VNIR/SWIR cut must be a wavelength in nanometres, not {cut_nm}.")
    bands = bands.take(np.argsort(bands.centre_nm, kind="stable"))
    detector = np.array(bands.detector)
    vnir, swir = detector == "VNIR", detector == "SWIR"
    centre = bands.centre_nm
    if not vnir.any() or not swir.any() or centre[swir].min() > centre[vnir].max():
        return bands, OverlapReport(cut_nm, None, None, (), ())
    low, high = float(centre[swir].min()), float(centre[vnir].max())
    used = float(np.clip(cut_nm, np.nextafter(low, 0.0), high))
    dropped_vnir, dropped_swir = vnir & (centre > used), swir & (centre <= used)
    report = OverlapReport(
        cut_nm=cut_nm,
        used_nm=used,
        overlap_nm=(low, high),
        vnir_dropped_nm=tuple(centre[dropped_vnir].tolist()),
        swir_dropped_nm=tuple(centre[dropped_swir].tolist()),
    )
    return bands.take(~(dropped_vnir | dropped_swir)), report


def detectors_of(centre_nm: NDArray[np.float64]) -> list[str]:
    """Name two detectors where the wavelengths of the file run through an overlap twice, else nothing."""
    steps = np.diff(centre_nm)
    upwards = np.count_nonzero(steps > 0) >= np.count_nonzero(steps < 0)
    breaks = np.flatnonzero(steps < 0 if upwards else steps > 0)
    if breaks.size != 1:
        return [""] * centre_nm.size
    first, second = centre_nm[: breaks[0] + 1], centre_nm[breaks[0] + 1 :]
    low, high = (first, second) if first.min() < second.min() else (second, first)
    # A real pair of detectors meets in the near infrared; anything else is just an unsorted file.
    if not (700 < high.min() < 1200 and 700 < low.max() < 1200):
        return [""] * centre_nm.size
    names = ("VNIR", "SWIR") if low is first else ("SWIR", "VNIR")
    return [names[0]] * first.size + [names[1]] * second.size
