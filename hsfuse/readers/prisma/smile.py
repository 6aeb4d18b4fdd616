"""Spectral smile: how far the centre wavelengths of the detector columns lie from the nominal ones of the band lists.

Products bring a centre wavelength for each detector column and slot (``KDP_AUX/Cw_Vnir_Matrix``, ``Cw_Swir_Matrix``).
L2D images are resampled to a map, where a pixel's column is no longer known, and bands keep their nominal centres; what
that amounts to is stated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.readers.prisma.file import He5File
from hsfuse.spectral import BandTable

NOTABLE_NM = 2.0
"""A fifth of the distance of two bands."""
_ABSURD_NM = 100.0


@dataclass(frozen=True)
class DetectorSmile:
    """Distance of the columns' centres from the nominal ones, over the bands that are offered.

    Attributes
    ----------
    largest_nm, mean_nm
        Largest and mean distance (nm).
    at_nm
        Nominal centre of the band with the largest one.
    columns
        Number of detector columns.
    """

    largest_nm: float
    mean_nm: float
    at_nm: float
    columns: int


@dataclass(frozen=True)
class Smile:
    """What a product says of its smile.

    Attributes
    ----------
    detectors
        By name (``VNIR``, ``SWIR``); those whose matrix the product brings.
    """

    detectors: dict[str, DetectorSmile]

    @property
    def largest_nm(self) -> float:
        """Largest distance of any band."""
        return max(part.largest_nm for part in self.detectors.values())

    @property
    def sentence(self) -> str:
        """Say it in a sentence."""
        parts = (
            f"{part.largest_nm:.1f} nm in {name} (at {part.at_nm:.0f} nm; {part.mean_nm:.1f} nm on average)"
            for name, part in self.detectors.items()
        )
        return f"across the swath, centre wavelengths lie up to {' and '.join(parts)} from the nominal ones"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"largest_nm": self.largest_nm, "detectors": {k: asdict(v) for k, v in self.detectors.items()}}


def read_smile(file: He5File, bands: BandTable) -> Smile | None:
    """Read the matrices of a product; None when it brings none that fit its bands.

    Parameters
    ----------
    file
        The product.
    bands
        Bands that are offered, with detector and slot.
    """
    found = {}
    detector = np.array(bands.detector)
    for name in ("VNIR", "SWIR"):
        mine = detector == name
        matrix = _matrix(file, name)
        if matrix is None or not mine.any():
            continue
        slots, nominal = bands.slot[mine], bands.centre_nm[mine]
        if matrix.shape[1] <= slots.max():
            continue
        centres = matrix[:, slots]
        away = np.where(centres > 0, np.abs(centres - nominal), np.nan)
        known = np.isfinite(away).any(axis=0)
        if not known.any() or np.nanmax(away) > _ABSURD_NM:
            continue
        largest = np.nanmax(away[:, known], axis=0)
        band = int(largest.argmax())
        found[name] = DetectorSmile(
            round(float(largest[band]), 3),
            round(float(np.nanmean(away)), 3),
            round(float(nominal[known][band]), 1),
            int(matrix.shape[0]),
        )
    return Smile(found) if found else None


def _matrix(file: He5File, detector: str) -> NDArray[np.float64] | None:
    """Centre wavelengths, shape (column, slot)."""
    name = f"KDP_AUX/Cw_{detector.capitalize()}_Matrix"
    if not file.has(name):
        return None
    matrix = np.asarray(file.read(file.dataset(name, ndim=2), slice(None)), dtype=np.float64)
    listed = file.vector(f"List_Cw_{detector.capitalize()}").size
    if matrix.shape[1] != listed and matrix.shape[0] == listed:
        matrix = matrix.T
    return matrix if matrix.shape[1] == listed and matrix.shape[0] > 0 else None
