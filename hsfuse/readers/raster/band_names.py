"""Wavelengths in the names of bands, with a unit or without one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from rasterio.io import DatasetReader

from hsfuse.readers.raster.band_numbers import Found, per_band
from hsfuse.readers.raster.tags import descriptions

_IN_DESCRIPTION = re.compile(r"(\d{1,9}(?:\.\d{1,12})?) ?(nm|nanomet|[µμu]m|micromet)", re.IGNORECASE)
_DESCRIPTION_LENGTH = 200
_PLAIN_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,12})?")
_FEWEST_PLAIN = 10
"""Names of fewer bands may hold numbers that mean something else."""
_OPTICAL_NM = (340.0, 2700.0)


def band_names(dataset: DatasetReader, indexes: list[int]) -> Found:
    """Return the wavelengths in the descriptions of some bands (1-based numbers)."""
    centres: list[str] = []
    units = set()
    texts = descriptions(dataset)
    for index in indexes:
        match = _IN_DESCRIPTION.search((texts[index - 1] or "")[:_DESCRIPTION_LENGTH])
        if match is None:
            return _plain_names([texts[i - 1] or "" for i in indexes], indexes)
        units.add(match[2][0].lower() == "n")
        centres.append(match[1])
    centre, problems = per_band(centres, indexes, "band descriptions")
    if centre is None or len(units) > 1:
        return Found("band descriptions", problems=problems)
    return Found("band descriptions", centre.times(1.0 if units.pop() else 1000.0))


def _plain_names(texts: Sequence[str], indexes: list[int]) -> Found:
    """Wavelengths of band names without a unit, such as ``Band 12 (512.4)`` or ``0.5124``: the last number of each.

    Only where all of them can be wavelengths of light and are none that merely count.
    """
    name = "band names, which give no unit"
    last = [numbers[-1] for text in texts if (numbers := _PLAIN_NUMBER.findall(text[:_DESCRIPTION_LENGTH]))]
    if len(last) < len(texts) or len(texts) < _FEWEST_PLAIN:
        return Found(name)
    centre, problems = per_band(last, indexes, name)
    if centre is None:
        return Found(name, problems=problems)
    factor = 1000.0 if centre.values.max() < _OPTICAL_NM[0] else 1.0
    values = centre.values * factor
    optical = _OPTICAL_NM[0] <= values.min() and values.max() <= _OPTICAL_NM[1]
    counting = np.all(np.abs(np.diff(values)) == 1.0)
    if not optical or counting or np.unique(values).size < values.size:
        return Found(name)
    unit = "nanometres" if factor == 1.0 else "micrometres"
    said = f"The band names give wavelengths without a unit; they were taken as {unit}."
    return Found(name, centre.times(factor), problems=(said,))
