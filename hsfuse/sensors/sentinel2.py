"""Sentinel-2 band facts: numbers, pixel sizes, and centre and width of each band by spacecraft.

The table is the fall-back for products whose metadata carry no spectral responses (very old baselines), and what
the simulator writes. Source: ESA COPE-GSEG-EOPG-TN-15-0007, spectral response functions version 4.0 (2024);
centre is the response-weighted mean, width the full width at half maximum, both in nm. Sentinel-2C's B08 is 9 nm
narrower than that of its sisters, so the spacecraft decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from hsfuse.spectral import SpectralResponse

BAND_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Band names at the index that the metadata call ``bandId`` or ``band_id``."""

BAND_ID = {name: index for index, name in enumerate(BAND_ORDER)}

RESOLUTION_M = dict.fromkeys(BAND_ORDER, 20) | {
    "B02": 10, "B03": 10, "B04": 10, "B08": 10,
    "B01": 60, "B09": 60, "B10": 60,
}  # fmt: skip
"""Native pixel size of each band in metres."""

BANDS_10M = ("B02", "B03", "B04", "B08")
BANDS_ALL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""All bands of 10 m and 20 m pixels, ascending in band number."""

_CENTRE_FWHM_NM: dict[str, dict[str, tuple[float, float]]] = {
    "Sentinel-2A": {
        "B02": (492.7, 64.3), "B03": (559.8, 34.8), "B04": (664.6, 30.6), "B05": (704.1, 14.0),
        "B06": (740.5, 13.6), "B07": (782.8, 19.0), "B08": (832.8, 104.8), "B8A": (864.7, 20.5),
        "B11": (1613.7, 89.7), "B12": (2202.4, 173.6),
    },
    "Sentinel-2B": {
        "B02": (492.3, 64.9), "B03": (558.9, 35.1), "B04": (664.9, 30.3), "B05": (703.8, 14.1),
        "B06": (739.1, 13.6), "B07": (779.7, 19.8), "B08": (832.9, 104.9), "B8A": (864.0, 20.7),
        "B11": (1610.4, 93.5), "B12": (2185.7, 183.4),
    },
    "Sentinel-2C": {
        "B02": (489.0, 65.3), "B03": (560.6, 35.4), "B04": (666.5, 30.4), "B05": (707.1, 15.3),
        "B06": (741.1, 15.3), "B07": (784.7, 20.3), "B08": (834.6, 95.8), "B8A": (865.6, 20.0),
        "B11": (1612.0, 90.3), "B12": (2191.3, 183.2),
    },
}  # fmt: skip

SPACECRAFT = tuple(_CENTRE_FWHM_NM)


def centre_fwhm_nm(spacecraft: str, band: str) -> tuple[float, float]:
    """Return centre and full width at half maximum (nm) of a 10 m or 20 m band.

    A spacecraft that the table does not know gets Sentinel-2A's values.
    """
    return _CENTRE_FWHM_NM.get(spacecraft, _CENTRE_FWHM_NM["Sentinel-2A"])[band]


def table_responses(spacecraft: str, bands: Sequence[str]) -> tuple[SpectralResponse, ...]:
    """Return flat-top model responses of ``bands`` from the table of a spacecraft."""
    return tuple(SpectralResponse.flat_top(band, *centre_fwhm_nm(spacecraft, band)) for band in bands)
