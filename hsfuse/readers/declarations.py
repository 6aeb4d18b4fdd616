"""What a user says of a raster whose file does not say it, or says it wrongly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.small_text import read_small_text

FloatList = NDArray[np.float64]

_MICROMETRES_BELOW = 100.0
_SEPARATOR = re.compile(r"[\s,;]+")
_HINT = "Write a line for each band: its wavelength in nm and, if known, its width (FWHM); '#' starts a comment."


@dataclass(frozen=True)
class Declarations:
    """What is said of a raster; None leaves it to the file.

    Attributes
    ----------
    wavelengths
        Text file with the centre wavelength of each band, and its width if there is a second column.
    scale, offset
        From stored numbers to reflectance: number x scale + offset.
    nodata
        Stored number of samples without data.
    """

    wavelengths: Path | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.wavelengths, self.scale, self.offset, self.nodata))

    @property
    def options(self) -> str:
        """The options by which something was said."""
        return ", ".join(f"--{name}" for name, value in vars(self).items() if value is not None)


NOTHING = Declarations()
"""The file says it all."""


def read_wavelength_file(path: Path) -> tuple[FloatList, FloatList | None]:
    """Read centres and widths of bands, in nanometres; the widths are None when the file gives none.

    Each line holds a centre (0 leaves the band out) and, in all lines or none, a width, separated by blanks, commas or
    semicolons; a first line of words is a heading. Numbers below 100 are micrometres.

    Raises
    ------
    UsageError
        The file cannot be read, or a line is none of that.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path), start=1):
        words = [word for word in _SEPARATOR.split(line.split("#", 1)[0].strip()) if word]
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if rows or number > 1:
                raise UsageError(
                    f"Option 'wavelengths': line {number} of {path} is no list of numbers ('{line.strip()[:40]}').",
                    hint=_HINT,
                ) from None
    lengths = {len(row) for row in rows}
    if len(rows) == 1 and lengths != {2}:
        # All in one line: centres only.
        rows, lengths = [[value] for value in rows[0]], {1}
    if not rows or lengths not in ({1}, {2}):
        problem = "holds no wavelengths" if not rows else "does not hold one or two numbers in each line"
        raise UsageError(f"Option 'wavelengths': {path} {problem}.", hint=_HINT)
    table = np.array(rows)
    if not np.all(np.isfinite(table)) or np.any(table < 0):
        raise UsageError(f"Option 'wavelengths': {path} holds numbers that are no wavelengths.", hint=_HINT)
    if np.all(table < _MICROMETRES_BELOW):
        table = table * 1000.0
    return table[:, 0], table[:, 1] if lengths == {2} else None


def _lines(path: Path) -> list[str]:
    try:
        return read_small_text(path, "list of wavelengths").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"Option 'wavelengths': {path} cannot be read: {reason}.", hint=_HINT) from error
