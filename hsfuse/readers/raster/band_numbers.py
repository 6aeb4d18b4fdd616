"""Numbers of band metadata as they were written, with the unit that they are in, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
from numpy.typing import NDArray

FloatList = NDArray[np.float64]

_BEYOND_NM = 3000.0
_WAVENUMBERS = 5e4
"""Beyond 3 µm no sunlight is reflected; wavenumbers (cm⁻¹) of light end at 50 000."""
_GOOD_WORDS = {"true": True, "yes": True, "good": True, "false": False, "no": False, "bad": False}


@dataclass(frozen=True)
class Numbers:
    """Numbers as they were written: values, and the last digit's worth."""

    values: FloatList
    step: float

    def times(self, factor: float) -> Numbers:
        """Return them in another unit."""
        return self if factor == 1.0 else Numbers(self.values * factor, self.step * factor)


@dataclass(frozen=True)
class Found:
    """What one source says."""

    source: str
    centre: Numbers | None = None
    fwhm: Numbers | None = None
    good: NDArray[np.bool_] | None = None
    problems: tuple[str, ...] = ()


def per_band(
    texts: Sequence[str | None], indexes: Sequence[int], source: str
) -> tuple[Numbers | None, tuple[str, ...]]:
    """Return one number for each band; None, and what is wrong, when some are missing or no numbers."""
    given = [text for text in texts if text is not None]
    if not given:
        return None, ()
    if len(given) < len(texts):
        band = indexes[list(texts).index(None)]
        return None, (f"The {source} names {len(given)} of {len(texts)} wavelengths (none for band {band}).",)
    values, steps = [], []
    for band, text in zip(indexes, given, strict=True):
        try:
            number = Decimal(text.strip())
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite():
            return None, (f"The {source} gives band {band} the wavelength '{text.strip()[:40]}'.",)
        values.append(float(number))
        steps.append(int(number.as_tuple().exponent))
    return Numbers(np.array(values), 10.0 ** min(0, *steps)), ()


def flags_of(texts: Iterable[str] | None, source: str) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Return which bands are good by a list of words or numbers; None, and what is wrong, when one means nothing."""
    if texts is None:
        return None, ()
    flags = []
    for text in texts:
        word = text.strip().lower()
        try:
            flags.append(_GOOD_WORDS[word] if word in _GOOD_WORDS else float(word) > 0)
        except ValueError:
            return None, (f"The {source} marks bad bands by '{text.strip()[:40]}', which was not understood.",)
    return np.array(flags, dtype=np.bool_), ()


def nanometres_per_unit(unit: str, wavelengths: FloatList, source: str) -> tuple[float | None, tuple[str, ...]]:
    """Return the factor to nanometres; None, and what is wrong, for units that are no wavelengths of light.

    Without a unit, numbers below 100 are taken for micrometres.
    """
    name = unit.strip().lower()
    if name.startswith(("nano", "nm")):
        return 1.0, ()
    if name.startswith(("micro", "um", "µm", "μm")):
        return 1000.0, ()
    if name in ("", "unknown", "none") and wavelengths.min() > _BEYOND_NM and wavelengths.max() < _WAVENUMBERS:
        return None, (
            f"The {source} gives wavelengths from {wavelengths.min():g} to {wavelengths.max():g} without a unit, which "
            "are no nanometres: they look like Angstrom or wavenumbers.",
        )
    if name in ("", "unknown", "none"):
        return 1000.0 if wavelengths.max() < 100 else 1.0, ()
    return None, (f"The {source} gives wavelengths in '{unit.strip()[:40]}', not in nanometres or micrometres.",)
