"""Landsat 8 and 9: bands of the Operational Land Imager.

Centre and full width at half maximum (nm) of OLI's relative spectral responses (Barsi et al. 2014, Remote Sensing
6(10), 10232-10251). OLI-2 on Landsat 9 is a copy of it whose bands lie within a nanometre or two of these.
"""

from __future__ import annotations

from dataclasses import replace

from hsfuse.spectral import SpectralResponse

OLI_CENTRE_FWHM_NM = {
    "B1": (442.96, 15.98), "B2": (482.04, 60.04), "B3": (561.41, 57.33), "B4": (654.59, 37.47), "B5": (864.67, 28.25),
    "B6": (1608.86, 84.72), "B7": (2200.73, 186.66),
}  # fmt: skip


def oli_response(band: str) -> SpectralResponse:
    """Return the flat-top model response of a band."""
    response = SpectralResponse.flat_top(band, *OLI_CENTRE_FWHM_NM[band])
    return replace(response, source="flat-top model of OLI (Barsi et al. 2014)")
