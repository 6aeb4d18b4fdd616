"""What a cube says about itself, in the words of each reader.

Programs look for wavelengths in different places: GDAL in each band's ``IMAGERY`` domain (micrometres), EnMAP-Box
in a STAC file, in band items or in the ``ENVI`` domain, QGIS in the band's description, ENVI and SPy in a header.
This module is the only one that knows those words; the format writers put them where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.spectral import BandTable

TRUE_COLOUR_NM = (665.0, 560.0, 490.0)
_TRUE_COLOUR_REACH_NM = 40.0


@dataclass(frozen=True)
class CubeMetadata:
    """Everything about a cube except its pixels and its grid.

    Attributes
    ----------
    bands
        Bands in the cube's order.
    usable
        False for bands that are flagged as bad (ENVI ``bbl`` 0), shape (band,).
    description
        One line for people.
    sensor
        Name of the hyperspectral sensor, may be empty.
    acquired
        Acquisition time of the hyperspectral product, when known.
    identity
        Names the run that made the cube: same settings and inputs, same identity.
    provenance
        JSON-serialisable record of version, settings, inputs, method and model; must not hold times or anything
        else that differs between two equal runs.
    """

    bands: BandTable
    usable: NDArray[np.bool_]
    description: str = ""
    sensor: str = ""
    acquired: datetime | None = None
    identity: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, bands: BandTable, *, bad_bands: Iterable[int] | None = None, **facts: Any) -> CubeMetadata:
        """Build from a band table; ``bad_bands`` are flagged besides those that the table itself marks."""
        usable = bands.good.copy()
        if bad_bands is not None:
            usable[np.fromiter(bad_bands, dtype=np.int64)] = False
        return cls(bands, usable, **facts)

    @property
    def acquired_utc(self) -> str:
        """Acquisition time as ISO 8601 in UTC, empty when unknown."""
        if self.acquired is None:
            return ""
        moment = self.acquired if self.acquired.tzinfo else self.acquired.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: float) -> str:
    """Shortest text of a number at 8 significant digits: ``0.7053``, ``705.3``."""
    return f"{value:.8g}"


def micrometres(value_nm: float) -> str:
    """A wavelength in micrometres as text."""
    return number(value_nm / 1000.0)


def imagery_items(bands: BandTable, index: int) -> dict[str, str]:
    """GDAL's ``IMAGERY`` items of one band (micrometres)."""
    return {
        "CENTRAL_WAVELENGTH_UM": micrometres(bands.centre_nm[index]),
        "FWHM_UM": micrometres(bands.fwhm_nm[index]),
    }


def band_items(metadata: CubeMetadata, index: int) -> dict[str, str]:
    """Items of one band in the default domain (nanometres)."""
    bands = metadata.bands
    return {
        "wavelength": number(bands.centre_nm[index]),
        "wavelength_units": "Nanometers",
        "fwhm": number(bands.fwhm_nm[index]),
        "bbl": str(int(metadata.usable[index])),
    }


def default_bands(bands: BandTable) -> tuple[int, int, int]:
    """Zero-based bands for red, green and blue: true colour, else evenly spread over the spectrum."""
    nearest = bands.nearest(TRUE_COLOUR_NM)
    distance = np.abs(bands.centre_nm[nearest] - np.array(TRUE_COLOUR_NM))
    if np.all(distance <= _TRUE_COLOUR_REACH_NM) and len(set(nearest.tolist())) == 3:
        return int(nearest[0]), int(nearest[1]), int(nearest[2])
    last = len(bands) - 1
    return (3 * last + 2) // 4, last // 2, last // 4


def envi_fields(metadata: CubeMetadata) -> dict[str, str]:
    """Spectral fields of an ENVI header, values as they stand there (lists in braces).

    The same fields make the ``ENVI`` metadata domain of a GeoTIFF, with underscores for blanks.
    """
    bands = metadata.bands
    red, green, blue = default_bands(bands)
    fields = {
        "sensor type": plain(metadata.sensor) or "Unknown",
        "wavelength units": "Nanometers",
        "wavelength": braces(number(v) for v in bands.centre_nm),
        "fwhm": braces(number(v) for v in bands.fwhm_nm),
        "bbl": braces(str(int(v)) for v in metadata.usable),
        "default bands": braces((str(red + 1), str(green + 1), str(blue + 1))),
    }
    if metadata.acquired is not None:
        fields["acquisition time"] = metadata.acquired_utc
    return fields


def braces(values: Iterable[str]) -> str:
    """An ENVI list: ``{a, b, c}``."""
    return "{" + ", ".join(values) + "}"


def plain(text: str) -> str:
    """Text without the characters that end an ENVI value (braces, line ends)."""
    return " ".join(text.replace("{", "(").replace("}", ")").split())
