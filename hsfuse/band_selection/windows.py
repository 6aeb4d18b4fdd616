"""Wavelengths where a spaceborne spectrometer sees too little ground, as a table.

Limits follow the published quality studies of PRISMA and the band lists in common use: noisy detector edges, the
two opaque water-vapour windows, and shallower gas absorptions that the atmospheric correction leaves traces of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WindowKind = Literal["edge", "shallow", "deep"]


@dataclass(frozen=True)
class SpectralWindow:
    """A range of centre wavelengths, limits included."""

    name: str
    low_nm: float
    high_nm: float
    kind: WindowKind

    @property
    def label(self) -> str:
        """Name and limits for tables."""
        if self.kind == "edge":
            limit = f"< {self.high_nm:g}" if self.low_nm <= 0 else f"> {self.low_nm:g}"
            return f"{self.name} ({limit} nm)"
        return f"{self.name} ({self.low_nm:g}-{self.high_nm:g} nm)"


WINDOWS: tuple[SpectralWindow, ...] = (
    SpectralWindow("blue edge, low signal", 0.0, 430.0, "edge"),
    SpectralWindow("oxygen A band", 757.0, 772.0, "shallow"),
    SpectralWindow("water vapour 0.94 um and detector overlap", 900.0, 985.0, "shallow"),
    SpectralWindow("water vapour 1.13 um", 1090.0, 1170.0, "shallow"),
    SpectralWindow("water vapour 1.4 um", 1340.0, 1490.0, "deep"),
    SpectralWindow("water vapour 1.9 um and carbon dioxide 2.0 um", 1790.0, 2000.0, "deep"),
    SpectralWindow("long-wave edge, low signal", 2350.0, 1e9, "edge"),
)
"""Windows in ascending order; they do not overlap."""


def window_of(centre_nm: float) -> SpectralWindow | None:
    """Return the window that a band's centre lies in, or None.

    The edges are open (a band at exactly 430 nm or 2350 nm is outside), the absorption windows closed.
    """
    for window in WINDOWS:
        if window.kind == "edge":
            inside = window.low_nm < centre_nm < window.high_nm
        else:
            inside = window.low_nm <= centre_nm <= window.high_nm
        if inside:
            return window
    return None


def windows_of(centre_nm: NDArray[np.float64]) -> list[SpectralWindow | None]:
    """Return the window of each band."""
    return [window_of(float(value)) for value in centre_nm]
