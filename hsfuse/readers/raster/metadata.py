"""Wavelengths, widths and bad bands of rasters: from the most precise source that belongs to the very file.

The same numbers often stand in several places, and not equally well: GDAL repeats an ENVI header's wavelengths in
micrometres with three decimals, which is whole nanometres. All sources are read; the first in order of trust decides
what the bands are, and among those that agree with it within its rounding, the one with the finest numbers is taken.
Sources that contradict it are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.readers.raster.band_names import band_names
from hsfuse.readers.raster.band_numbers import FloatList, Found, flags_of, nanometres_per_unit, per_band
from hsfuse.readers.raster.envi_header import EnviHeader
from hsfuse.readers.raster.tags import domains, tags
from hsfuse.spectral import BandTable

_CENTRE_ITEMS = (
    "wavelength", "center_wavelength", "centre_wavelength", "central_wavelength", "wavelength_nm", "wavelengths",
    "center_wavelengths", "centre_wavelengths",
)  # fmt: skip
_WIDTH_ITEMS = ("fwhm", "full_width_half_max", "fwhm_nm")
_AGREEMENT_NM = 0.05
"""Sources may differ by this much beyond their rounding: 0.1 nm decides nothing."""


@dataclass(frozen=True)
class BandMetadata:
    """Spectral metadata of the bands of a raster, in file order.

    Attributes
    ----------
    centre_nm
        Centre wavelengths; empty when no source names all of them.
    fwhm_nm
        Full widths at half maximum, None when nobody gives them.
    good
        False for bands that the producer marks as bad.
    source
        Where the wavelengths were found, in words.
    problems
        What is wrong with sources that were not used, in sentences.
    """

    centre_nm: FloatList
    fwhm_nm: FloatList | None
    good: NDArray[np.bool_]
    source: str
    problems: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Whether the wavelengths are known."""
        return self.centre_nm.size > 0


def read_band_metadata(dataset: DatasetReader, indexes: list[int], header: EnviHeader) -> BandMetadata:
    """Return the spectral metadata of some bands.

    The sources in order of trust: the IMAGERY domain of each band (µm), items of each band (``wavelength``,
    ``wavelength_units``, ``fwhm``, ``bbl``, in any domain), lists of the dataset (ENVI domain first), the ENVI
    header that belongs to the file, band descriptions with a number and a unit.

    Parameters
    ----------
    dataset
        Open raster.
    indexes
        1-based band numbers.
    header
        The ENVI header that belongs to the file (see :func:`~hsfuse.readers.raster.envi_header.header_of`).
    """
    in_header = _lists(header.entries, indexes, dataset.count, "ENVI header")
    if dataset.driver == "ENVI" and "wavelength" in header.entries:
        # All else that GDAL offers is made of this header, rounded and cut to length.
        found = [in_header]
    else:
        found = [
            _imagery(dataset, indexes),
            _band_items(dataset, indexes),
            *(_lists(tags(dataset, ns=ns), indexes, dataset.count, "dataset metadata") for ns in list_domains(dataset)),
            in_header,
        ]
    if all(source.centre is None and not source.problems for source in found):
        # Names are often nominal; they only count where there is nothing else.
        found.append(band_names(dataset, indexes))
    problems = [problem for source in found for problem in source.problems]
    named = [(source, source.centre) for source in found if source.centre is not None]
    good = next((source.good for source in found if source.good is not None), np.ones(len(indexes), np.bool_))
    if not named:
        return BandMetadata(np.empty(0), None, good, "", tuple(dict.fromkeys(problems)))
    trusted, anchor = named[0]
    agreeing, best, numbers = [trusted], trusted, anchor
    for source, centre in named[1:]:
        apart = np.abs(centre.values - anchor.values).max()
        if apart > 0.5 * (centre.step + anchor.step) + _AGREEMENT_NM:
            problems.append(
                f"The wavelengths of the {source.source} differ by up to {apart:.4g} nm from those of the "
                f"{trusted.source}, which were used."
            )
            continue
        agreeing.append(source)
        if centre.step < numbers.step:
            best, numbers = source, centre
    widths = [source.fwhm for source in agreeing if source.fwhm is not None]
    fwhm = min(widths, key=lambda width: width.step).values if widths else None
    return BandMetadata(numbers.values, fwhm, good, best.source, tuple(dict.fromkeys(problems)))


def list_domains(dataset: DatasetReader) -> list[str | None]:
    """Metadata domains of a dataset that may hold lists, the ENVI domain first, the default domain last."""
    skip = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "GEOLOCATION", "RPC", "COLOR_PROFILE"}
    others = [name for name in domains(dataset) if name not in skip and not name.startswith("xml:")]
    return [*sorted(others, key=lambda name: name != "ENVI"), None]


def _imagery(dataset: DatasetReader, indexes: list[int]) -> Found:
    name = "IMAGERY metadata"
    imagery = [tags(dataset, index, ns="IMAGERY") for index in indexes]
    centre, problems = per_band([item.get("CENTRAL_WAVELENGTH_UM") for item in imagery], indexes, name)
    fwhm, _ = per_band([item.get("FWHM_UM") for item in imagery], indexes, name)
    if centre is None:
        return Found(name, problems=problems)
    return Found(name, centre.times(1000.0), None if fwhm is None else fwhm.times(1000.0), problems=problems)


def _band_items(dataset: DatasetReader, indexes: list[int]) -> Found:
    name = "band metadata"
    bands = []
    for index in indexes:
        items: dict[str, str] = {}
        for domain in [*domains(dataset, index), None]:
            items |= normalised(tags(dataset, index, ns=domain))
        bands.append(items)
    key = next((key for key in _CENTRE_ITEMS if any(key in item for item in bands)), _CENTRE_ITEMS[0])
    centre, problems = per_band([item.get(key) for item in bands], indexes, name)
    flags = [item.get("bbl", "1") for item in bands] if any("bbl" in item for item in bands) else None
    good, flag_problems = flags_of(flags, name)
    problems += flag_problems
    if centre is None:
        return Found(name, good=good, problems=problems)
    unit = bands[0].get("wavelength_units", bands[0].get("wavelength_unit", ""))
    factor, unit_problem = nanometres_per_unit(unit, centre.values, name)
    if factor is None:
        return Found(name, good=good, problems=(*problems, *unit_problem))
    width_key = next((key for key in _WIDTH_ITEMS if any(key in item for item in bands)), _WIDTH_ITEMS[0])
    fwhm, _ = per_band([item.get(width_key) for item in bands], indexes, name)
    return Found(name, centre.times(factor), None if fwhm is None else fwhm.times(factor), good, problems)


def _lists(entries: Mapping[str, str], indexes: list[int], count: int, source: str) -> Found:
    items = normalised(entries)
    problems: list[str] = []

    def texts(names: Sequence[str], what: str) -> list[str] | None:
        name = next((name for name in names if name in items), None)
        if name is None:
            return None
        every = [text for text in re.split(r"[,\s]+", items[name].strip().strip("{}").strip()) if text]
        if len(every) == count:
            return [every[index - 1] for index in indexes]
        if len(every) == len(indexes):
            return every
        # Single numbers stand for the scene, not for its bands.
        if len(every) > 1:
            problems.append(f"The {source} lists {len(every)} {what} for {count} bands.")
        return None

    centre = fwhm = None
    if (listed := texts(_CENTRE_ITEMS, "wavelengths")) is not None:
        centre, wrong = per_band(listed, indexes, source)
        problems += wrong
    if centre is not None:
        factor, wrong = nanometres_per_unit(items.get("wavelength_units", ""), centre.values, source)
        problems += wrong
        if (widths := texts(_WIDTH_ITEMS, "widths")) is not None and factor is not None:
            fwhm, _ = per_band(widths, indexes, source)
            fwhm = None if fwhm is None else fwhm.times(factor)
        centre = None if factor is None else centre.times(factor)
    good, wrong = flags_of(texts(("bbl",), "bad-band flags"), source)
    problems += wrong
    return Found(source, centre, fwhm, good, tuple(problems))


def normalised(items: Mapping[str, str]) -> dict[str, str]:
    """Return metadata items by lower-case name with underscores."""
    return {name.strip().lower().replace(" ", "_"): value for name, value in items.items()}


def reflectance_scale_factor(dataset: DatasetReader, header: EnviHeader) -> float | None:
    """Return the ENVI entry ``reflectance scale factor`` (stored number of reflectance 1), None when there is none.

    Raises
    ------
    InputError
        It is no number, or none that can be meant.
    """
    for items in (*(tags(dataset, ns=domain) for domain in list_domains(dataset)), header.entries):
        text = normalised(items).get("reflectance_scale_factor")
        if text is None:
            continue
        try:
            factor = float(text)
        except ValueError:
            factor = float("nan")
        if not 1e-3 <= factor <= 1e9:
            raise InputError(
                f"{dataset.name}: the 'reflectance scale factor' is '{text.strip()[:40]}', which cannot be meant.",
                hint="It is the stored number of reflectance 1, usually 10000; correct or remove it.",
            )
        return factor
    return None


def band_table(path: Path, centre_nm: ArrayLike, fwhm_nm: ArrayLike, **columns: Any) -> BandTable:
    """Make a band table; what is wrong with the numbers is said with the file's name."""
    try:
        return BandTable.make(centre_nm, fwhm_nm, **columns)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
