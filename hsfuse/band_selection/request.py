"""What the user wants: a number of bands, all of them, or a list of wavelengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError, UsageError
from hsfuse.small_text import read_small_text
from hsfuse.spectral import BandTable

BandCount = int | Literal["all"] | None
_MICROMETRES_BELOW = 100.0


@dataclass(frozen=True)
class BandRequest:
    """A parsed ``--bands`` option.

    Attributes
    ----------
    count
        Number of bands, ``"all"`` of the product, or None for all that pass the criteria.
    wavelengths_nm
        Wanted centre wavelengths; they take precedence over ``count``.
    """

    count: BandCount = None
    wavelengths_nm: tuple[float, ...] | None = None


def parse_bands(text: str) -> BandRequest:
    """Read the ``--bands`` option: a number, ``all``, ``good`` (all that pass), or a file with wavelengths.

    The file holds numbers separated by blanks, commas or line ends; ``#`` starts a comment. Numbers below 100 are
    micrometres, others nanometres.

    Raises
    ------
    UsageError
        The text is neither of them, or the file cannot be read or holds something else.
    """
    cleaned = text.strip()
    if cleaned.lower() == "all":
        return BandRequest("all")
    if cleaned.lower() == "good":
        return BandRequest(None)
    if re.fullmatch(r"[+-]?\d+", cleaned):
        count = int(cleaned)
        if count < 2:
            raise UsageError(f"Option 'bands': {count} is too few.", hint="Ask for at least 2 bands.")
        return BandRequest(count)
    return BandRequest(wavelengths_nm=read_wavelengths(Path(cleaned)))


def read_wavelengths(path: Path) -> tuple[float, ...]:
    """Read a text file with wavelengths, returned in nanometres in the file's order.

    Raises
    ------
    UsageError
        The file cannot be read, is empty, or holds something that is not a plausible wavelength.
    """
    try:
        content = read_small_text(path, "list of wavelengths")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"Option 'bands': the file {path} cannot be read: {reason}.",
            hint="Give a number such as 100, 'all', 'good', or a text file with one wavelength (nm) a line.",
        ) from error
    values: list[float] = []
    for number, line in enumerate(content.splitlines(), start=1):
        for word in re.split(r"[\s,;]+", line.split("#", 1)[0].strip()):
            if not word:
                continue
            try:
                values.append(float(word))
            except ValueError:
                raise UsageError(
                    f"Option 'bands': '{word}' in line {number} of {path} is not a number.",
                    hint="Write one wavelength in nm a line; '#' starts a comment.",
                ) from None
    wavelengths = np.array(values)
    if wavelengths.size and np.all(wavelengths < _MICROMETRES_BELOW):
        wavelengths = wavelengths * 1000.0
    if wavelengths.size == 0 or not np.all((wavelengths >= 200.0) & (wavelengths <= 20_000.0)):
        raise UsageError(
            f"Option 'bands': {path} holds no list of plausible wavelengths.",
            hint="Write one wavelength in nm a line, between 200 and 20000.",
        )
    return tuple(float(value) for value in wavelengths)


def match_bands(
    bands: BandTable, wavelengths_nm: Sequence[float], *, tolerance_nm: float | None = None
) -> NDArray[np.int64]:
    """Find the band for each wavelength, by nanometres.

    Parameters
    ----------
    bands
        Bands of the scene.
    wavelengths_nm
        Wanted centre wavelengths, in any order.
    tolerance_nm
        Largest distance; by default half the band's FWHM or half the distance to the next band, whichever is
        larger, so that every wavelength inside the sensor's coverage is found.

    Returns
    -------
    numpy.ndarray
        Index into ``bands`` per wavelength, shape (wavelength,), all different.

    Raises
    ------
    InputError
        A wavelength has no band near enough, or two of them share the nearest band.
    """
    wanted = np.asarray(wavelengths_nm, dtype=np.float64)
    nearest = bands.nearest(wanted)
    distance = np.abs(bands.centre_nm[nearest] - wanted)
    reach = _reach(bands)[nearest] if tolerance_nm is None else np.full(wanted.size, tolerance_nm)
    missing = wanted[distance > reach]
    if missing.size:
        shown = ", ".join(f"{value:g}" for value in missing[:5]) + (", ..." if missing.size > 5 else "")
        raise InputError(
            f"The product has no band for {missing.size} of {wanted.size} wavelengths: {shown} nm.",
            hint=f"Its bands reach from {bands.centre_nm.min():.0f} to {bands.centre_nm.max():.0f} nm; "
            "see `hsfuse bands FILE` for the list.",
        )
    unique, counts = np.unique(nearest, return_counts=True)
    if np.any(counts > 1):
        band = unique[counts > 1][0]
        shared = ", ".join(f"{value:g}" for value in wanted[nearest == band])
        raise InputError(
            f"The wavelengths {shared} nm fall on the same band ({bands.centre_nm[band]:.1f} nm).",
            hint="Ask for wavelengths that are further apart.",
        )
    return nearest


def _reach(bands: BandTable) -> NDArray[np.float64]:
    order = np.argsort(bands.centre_nm, kind="stable")
    spacing = np.diff(bands.centre_nm[order])
    # The smaller of both neighbouring distances: a gap in the list is not covered by the bands at its edges.
    near = np.full(len(bands), np.inf)
    near[:-1] = spacing
    near[1:] = np.minimum(near[1:], spacing)
    half = np.empty(len(bands))
    half[order] = np.where(np.isfinite(near), near, 0.0) / 2
    reach: NDArray[np.float64] = np.maximum(half, bands.fwhm_nm / 2)
    return reach
