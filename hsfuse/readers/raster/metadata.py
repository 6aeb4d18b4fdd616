"""Wavelengths, widths, bad bands and scaling of rasters, from all places where software leaves them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.spectral import BandTable

FloatList = NDArray[np.float64]

_IN_DESCRIPTION = re.compile(r"(\d+(?:\.\d+)?)\s*(nm|nanomet\w*|[µμu]m|micromet\w*)", re.IGNORECASE)
_HDR_ENTRY = re.compile(r"^\s*([^=\n{}]+?)\s*=\s*(\{[^}]*\}|[^\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class BandMetadata:
    """Spectral metadata of the bands of a raster, in file order.

    Attributes
    ----------
    centre_nm
        Centre wavelengths.
    fwhm_nm
        Full widths at half maximum, None when nobody gives them.
    good
        False for bands that the producer marks as bad.
    source
        Where the wavelengths were found, in words.
    """

    centre_nm: FloatList
    fwhm_nm: FloatList | None
    good: NDArray[np.bool_]
    source: str


@dataclass(frozen=True)
class _Found:
    source: str
    centre_nm: FloatList | None
    fwhm_nm: FloatList | None
    good: NDArray[np.bool_] | None


def read_band_metadata(dataset: DatasetReader, indexes: list[int], header: Mapping[str, str]) -> BandMetadata | None:
    """Return the spectral metadata of some bands; None when no place names wavelengths for all of them.

    The places are asked in this order: the IMAGERY domain of each band (µm), items of each band (``wavelength``,
    ``wavelength_units``, ``fwhm``, ``bbl``, in any domain), lists of the dataset (ENVI domain first), the ENVI
    header beside the file, band descriptions with a number and a unit. Widths and bad-band flags come from the
    first place that has them.

    Parameters
    ----------
    dataset
        Open raster.
    indexes
        1-based band numbers.
    header
        Entries of the ENVI header beside the file (see :func:`read_envi_header`); empty when there is none.
    """
    found = [
        _imagery(dataset, indexes),
        _band_items(dataset, indexes),
        *(_lists(dataset.tags(ns=domain), indexes, "dataset metadata") for domain in _dataset_domains(dataset)),
        _lists(header, indexes, "ENVI header"),
        _descriptions(dataset, indexes),
    ]
    spectral = next((f for f in found if f.centre_nm is not None), None)
    if spectral is None or spectral.centre_nm is None:
        return None
    fwhm = next((f.fwhm_nm for f in found if f.fwhm_nm is not None), None)
    good = next((f.good for f in found if f.good is not None), None)
    return BandMetadata(
        centre_nm=spectral.centre_nm,
        fwhm_nm=fwhm,
        good=np.ones(len(indexes), dtype=np.bool_) if good is None else good,
        source=spectral.source,
    )


def _dataset_domains(dataset: DatasetReader) -> list[str | None]:
    skip = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "GEOLOCATION", "RPC", "COLOR_PROFILE"}
    others = [name for name in dataset.tag_namespaces() if name not in skip and not name.startswith("xml:")]
    return [*sorted(others, key=lambda name: name != "ENVI"), None]


def _imagery(dataset: DatasetReader, indexes: list[int]) -> _Found:
    tags = [dataset.tags(index, ns="IMAGERY") for index in indexes]
    centre = _numbers(item.get("CENTRAL_WAVELENGTH_UM") for item in tags)
    fwhm = _numbers(item.get("FWHM_UM") for item in tags)
    return _Found(
        "IMAGERY metadata",
        None if centre is None else centre * 1000.0,
        None if fwhm is None or centre is None else fwhm * 1000.0,
        None,
    )


def _band_items(dataset: DatasetReader, indexes: list[int]) -> _Found:
    bands = []
    for index in indexes:
        items: dict[str, str] = {}
        for domain in [*dataset.tag_namespaces(index), None]:
            items |= _normalised(dataset.tags(index, ns=domain) if domain else dataset.tags(index))
        bands.append(items)
    centre = _numbers(item.get("wavelength") for item in bands)
    if centre is None:
        return _Found("band metadata", None, None, None)
    unit = bands[0].get("wavelength_units", bands[0].get("wavelength_unit", ""))
    factor = nanometres_per_unit(unit, centre)
    fwhm = _numbers(item.get("fwhm") for item in bands)
    flagged = any("bbl" in item for item in bands)
    return _Found(
        "band metadata",
        centre * factor,
        None if fwhm is None else fwhm * factor,
        np.array([_is_good(item.get("bbl", "1")) for item in bands]) if flagged else None,
    )


def _lists(tags: Mapping[str, str], indexes: list[int], source: str) -> _Found:
    items = _normalised(tags)

    def values(name: str) -> FloatList | None:
        if name not in items:
            return None
        everything = _numbers(re.split(r"[,\s]+", items[name].strip().strip("{}").strip()))
        # A list that is too short belongs to something else.
        if everything is None or everything.size < max(indexes):
            return None
        chosen: FloatList = everything[np.array(indexes) - 1]
        return chosen

    centre, fwhm, flags = values("wavelength"), values("fwhm"), values("bbl")
    if centre is not None:
        factor = nanometres_per_unit(items.get("wavelength_units", ""), centre)
        centre = centre * factor
        fwhm = None if fwhm is None else fwhm * factor
    else:
        fwhm = None
    return _Found(source, centre, fwhm, None if flags is None else flags > 0)


def _descriptions(dataset: DatasetReader, indexes: list[int]) -> _Found:
    centres: list[str | None] = []
    for index in indexes:
        match = _IN_DESCRIPTION.search(dataset.descriptions[index - 1] or "")
        if match is None:
            return _Found("band descriptions", None, None, None)
        factor = 1.0 if match[2].lower().startswith("n") else 1000.0
        centres.append(str(float(match[1]) * factor))
    return _Found("band descriptions", _numbers(centres), None, None)


def _normalised(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.strip().lower().replace(" ", "_"): value for name, value in tags.items()}


def _numbers(texts: Iterable[str | None]) -> FloatList | None:
    """Return numbers when every text is one, else None."""
    try:
        values = np.array([float(text if text is not None else "missing") for text in texts])
    except ValueError:
        return None
    return values if values.size else None


def _is_good(flag: str) -> bool:
    try:
        return float(flag) > 0
    except ValueError:
        return flag.strip().lower() not in ("false", "no", "bad")


def nanometres_per_unit(unit: str, wavelengths: FloatList) -> float:
    """Return the factor to nanometres; without a known unit, numbers below 100 are taken for micrometres."""
    name = unit.strip().lower()
    if name.startswith(("nano", "nm")):
        return 1.0
    if name.startswith(("micro", "um", "µm", "μm")):
        return 1000.0
    return 1000.0 if wavelengths.max() < 100 else 1.0


def read_envi_header(path: Path) -> dict[str, str]:
    """Return the entries of the ENVI header that belongs to a raster (``out.hdr`` or ``out.tif.hdr``), or nothing."""
    for candidate in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        try:
            text = candidate.read_text(encoding="latin-1")
        except OSError:
            continue
        if text.lstrip().startswith("ENVI"):
            return {match[1].lower(): match[2].strip() for match in _HDR_ENTRY.finditer(text)}
    return {}


def reflectance_scale_factor(dataset: DatasetReader, header: Mapping[str, str]) -> float | None:
    """Return the ENVI entry ``reflectance scale factor`` (stored number of reflectance 1), None when there is none."""
    for tags in (*(dataset.tags(ns=domain) for domain in _dataset_domains(dataset)), header):
        text = _normalised(tags).get("reflectance_scale_factor")
        try:
            factor = float(text) if text is not None else 0.0
        except ValueError:
            continue
        if factor > 0 and np.isfinite(factor):
            return factor
    return None


def band_table(path: Path, centre_nm: ArrayLike, fwhm_nm: ArrayLike, **columns: Any) -> BandTable:
    """Make a band table; what is wrong with the numbers is said with the file's name."""
    try:
        return BandTable.make(centre_nm, fwhm_nm, **columns)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
