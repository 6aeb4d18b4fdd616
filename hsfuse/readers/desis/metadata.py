"""What the metadata file of a DESIS product says.

Bands stand under ``specific/bandCharacterisation/band``: 235 of 2.55 nm spacing, fewer in binned products. Quality
layers of L2A lie in one file, ``QL_QUALITY-2``: shadow, land, snow, haze over land and water, cloud over land and
water, water.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.readers.ortho_cube import CubeFacts, QualityLayer
from hsfuse.readers.package import ProductPackage
from hsfuse.readers.solar import reflectance_per_radiance
from hsfuse.readers.xml import number_at, parse_xml, time_of
from hsfuse.spectral import BandTable

_NODATA = -32768.0
_PER_MILLIWATT = 0.01
"""From mW cm⁻² sr⁻¹ µm⁻¹, in which gains give the radiance of L1C, to W m⁻² sr⁻¹ nm⁻¹."""
_REFLECTANCE_STEP = 1e-4
_HINT = "Download the product again; hsfuse needs the original files of DLR."
_HIDDEN = tuple(QualityLayer("QL_QUALITY-2", index) for index in (1, 6, 7))
_LEVEL = re.compile(r"(?:^|-)(L1[ABC]|L2A)(?:-|$)")


def read_facts(package: ProductPackage) -> CubeFacts:
    """Read the metadata of a product.

    Raises
    ------
    InputError
        They are damaged, lack something, or describe a level that is not orthorectified.
    """
    name = str(package.path)
    root = parse_xml(package.read_metadata(), name)
    level = _level(root, package.scene)
    if level not in ("L2A", "L1C"):
        raise InputError(
            f"{name}: this is a DESIS product of the level '{level or 'unknown'}'; fusion needs an orthorectified one.",
            hint="Order the L2A product of the same acquisition (L1C is accepted too).",
        )
    centre, fwhm, gain, offset = _read_bands(root, name)
    bands = BandTable.make(centre, fwhm, detector="VNIR")
    start = time_of((root.findtext("base/temporalCoverage/startTime") or "").strip())
    zenith = number_at(root, "specific/sunZenithAngle")
    warnings = []
    factor = np.ones(len(bands))
    if level == "L1C":
        factor = _PER_MILLIWATT * reflectance_per_radiance(bands, zenith, start, name)
    elif np.all(gain == 1.0):
        factor = np.full(len(bands), _REFLECTANCE_STEP)
        warnings.append("The metadata give no gain of the reflectance; numbers were taken as reflectance x 10000.")
    background = number_at(root, "specific/backgroundValue")
    return CubeFacts(
        sensor="DESIS",
        level=level,
        start=start,
        bands=bands,
        scale=gain * factor,
        offset=offset * factor,
        nodata=_NODATA if background is None else background,
        sun_zenith_deg=zenith,
        sun_azimuth_deg=number_at(root, "specific/sunAzimuthAngle"),
        view_zenith_deg=number_at(root, "specific/sceneIncidenceAngle"),
        hidden=_HIDDEN,
        attributes={
            "product_name": (root.findtext("metadata/name") or "").strip() or None,
            "processor_version": (root.findtext("base/revision") or "").strip() or None,
            "cloud_percent": _first_number(root, "specific/clouds/percentageClouds", "specific/cloudCoverage"),
            "radiometry": "surface" if level == "L2A" else "top of atmosphere",
        },
        warnings=(*warnings, "DESIS sees 400 to 1000 nm only: the cube has no SWIR bands."),
    )


def _first_number(root: Element, *places: str) -> float | None:
    return next((number for place in places if (number := number_at(root, place)) is not None), None)


def _level(root: Element, scene: str) -> str:
    for text in (root.findtext("base/level"), root.findtext("metadata/name"), scene):
        if text and (match := _LEVEL.search(text.strip().upper())) is not None:
            return match[1]
    return ""


def _read_bands(root: Element, name: str) -> NDArray[np.float64]:
    """Centre, width, gain and offset of every band, shape (4, band)."""
    listed: dict[int, list[float]] = {}
    for place, entry in enumerate(root.iterfind("specific/bandCharacterisation/band"), start=1):
        number = number_at(entry, "bandNumber")
        values = [
            number_at(entry, tag)
            for tag in ("wavelengthCenterOfBand", "wavelengthWidthOfBand", "gainOfBand", "offsetOfBand")
        ]
        if any(value is None for value in values):
            raise InputError(f"{name}: the metadata of band {place} are incomplete.", hint=_HINT)
        listed[place if number is None else int(number)] = [float(value or 0.0) for value in values]
    if not listed:
        raise InputError(f"{name}: the metadata describe no bands.", hint=_HINT)
    table = np.array([listed[number] for number in sorted(listed)]).T
    centre, fwhm, gain, offset = table
    if not np.all((centre > 350) & (centre < 1100) & (fwhm > 0) & (fwhm < 100)):
        raise InputError(
            f"{name}: the wavelengths ({centre.min():g} to {centre.max():g}) and widths are not those of DESIS.",
            hint=_HINT,
        )
    if not np.all((gain > 0) & (gain <= 1) & (np.abs(offset) <= 100)):
        raise InputError(f"{name}: the gains and offsets of the bands cannot be meant.", hint=_HINT)
    return table
