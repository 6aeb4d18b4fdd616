"""What the metadata file of an EnMAP product says.

Elements and their places follow the product specification EN-PCV-ICD-2009-2: bands under
``specific/bandCharacterisation/bandID``, channels of each detector under ``specific/vnirProductQuality`` and
``specific/swirProductQuality``, angles of the scene's centre under ``specific/*Angle/center``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.readers.ortho_cube import CubeFacts, QualityLayer
from hsfuse.readers.overlap import detectors_of
from hsfuse.readers.package import ProductPackage
from hsfuse.readers.solar import reflectance_per_radiance
from hsfuse.readers.xml import number_at, number_of, parse_xml, time_of
from hsfuse.spectral import BandTable

_NODATA = {"L2A": -32768.0, "L1C": 0.0}
_LARGEST_GAIN = 1.0
_HINT = "Download the product again; hsfuse needs the original files of DLR."
_HIDDEN = (
    QualityLayer("QL_QUALITY_CLOUD"),
    QualityLayer("QL_QUALITY_CLOUDSHADOW"),
    # 1 is thin cirrus, through which the ground is seen.
    QualityLayer("QL_QUALITY_CIRRUS", least=2),
)
_COVER = ("cloudCover", "cloudShadow", "hazeCover", "cirrusCover", "snowCover", "waterCover")


@dataclass(frozen=True)
class _Bands:
    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


def read_facts(package: ProductPackage) -> CubeFacts:
    """Read the metadata of a product.

    Raises
    ------
    InputError
        They are damaged, lack something, or describe a level that is not orthorectified.
    """
    name = str(package.path)
    root = parse_xml(package.read_metadata(), name)
    level = (root.findtext("base/level") or "").strip().upper()
    if level not in _NODATA:
        raise InputError(
            f"{name}: this is an EnMAP product of level '{level or 'unknown'}'; fusion needs an orthorectified one.",
            hint="Order the L2A product of the same acquisition (L1C is accepted too).",
        )
    found = _read_bands(root, name)
    bands = BandTable.make(found.centre_nm, found.fwhm_nm, detector=_detectors(root, found.centre_nm))
    start = time_of((root.findtext("base/temporalCoverage/startTime") or "").strip())
    elevation = number_at(root, "specific/sunElevationAngle/center")
    zenith = None if elevation is None else 90.0 - elevation
    factor = np.ones(len(bands))
    if level == "L1C":
        # Gains give W m⁻² sr⁻¹ nm⁻¹.
        factor = reflectance_per_radiance(bands, zenith, start, name)
    background = number_at(root, "specific/backgroundValue")
    view = number_at(root, "specific/viewingZenithAngle/center")
    across = number_at(root, "specific/acrossOffNadirAngle/center")
    return CubeFacts(
        sensor="EnMAP",
        level=level,
        start=start,
        bands=bands,
        scale=found.gain * factor,
        offset=found.offset * factor,
        nodata=_NODATA[level] if background is None else background,
        sun_zenith_deg=zenith,
        sun_azimuth_deg=number_at(root, "specific/sunAzimuthAngle/center"),
        view_zenith_deg=view if view is not None else None if across is None else abs(across),
        hidden=_HIDDEN,
        defects="QL_PIXELMASK",
        attributes={
            "product_name": (root.findtext("metadata/name") or "").strip() or None,
            "processor_version": (root.findtext("base/revision") or "").strip() or None,
            "archived_version": (root.findtext("base/archivedVersion") or "").strip() or None,
            "schema_version": (root.findtext("metadata/schema/versionSchema") or "").strip() or None,
            "cloud_percent": number_at(root, "specific/qualityFlag/cloudCover"),
            "cover_percent": {key: number_at(root, f"specific/qualityFlag/{key}") for key in _COVER},
            "radiometry": "surface" if level == "L2A" else "top of atmosphere",
        },
    )


def _read_bands(root: Element, name: str) -> _Bands:
    listed: dict[int, tuple[float, ...]] = {}
    for entry in root.iterfind("specific/bandCharacterisation/bandID"):
        number = number_of(entry.get("number"))
        values = [
            number_at(entry, tag) for tag in ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
        ]
        if number is None or any(value is None for value in values):
            raise InputError(f"{name}: the metadata of band {entry.get('number')} are incomplete.", hint=_HINT)
        listed[int(number)] = tuple(float(value or 0.0) for value in values)
    if not listed or sorted(listed) != list(range(1, len(listed) + 1)):
        raise InputError(f"{name}: the metadata do not describe the bands one by one.", hint=_HINT)
    centre, fwhm, gain, offset = np.array([listed[number] for number in sorted(listed)]).T
    if not np.all((centre > 300) & (centre < 2700) & (fwhm > 0) & (fwhm < 100)):
        raise InputError(
            f"{name}: the wavelengths ({centre.min():g} to {centre.max():g}) and widths are not EnMAP's.", hint=_HINT
        )
    if not np.all((gain > 0) & (gain <= _LARGEST_GAIN) & (np.abs(offset) <= _LARGEST_GAIN)):
        raise InputError(f"{name}: the gains and offsets of the bands cannot be meant.", hint=_HINT)
    return _Bands(centre, fwhm, gain, offset)


def _detectors(root: Element, centre_nm: NDArray[np.float64]) -> list[str]:
    """Detector of each band, by the lists of channels; where they are missing, by the order of the wavelengths."""
    names = [""] * centre_nm.size
    for detector in ("VNIR", "SWIR"):
        text = root.findtext(f"specific/{detector.lower()}ProductQuality/expectedChannelsList") or ""
        for part in re.split(r"[,\s]+", text.strip()):
            number = number_of(part)
            if number is not None and 1 <= number <= centre_nm.size:
                names[int(number) - 1] = detector
    return names if all(names) else detectors_of(centre_nm)
