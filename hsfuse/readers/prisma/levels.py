"""What PRISMA's levels store: reflectance (L2C, L2D), radiance at the surface (L2B) or above the atmosphere (L1)."""

from __future__ import annotations

import numpy as np

from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_SATURATED
from hsfuse.readers.prisma import header
from hsfuse.readers.prisma.cubes import Encoding
from hsfuse.readers.prisma.file import He5File
from hsfuse.readers.solar import reflectance_per_radiance
from hsfuse.spectral import BandTable

_NANOMETRES_PER_MICROMETRE = 1e-3
"""From W m⁻² sr⁻¹ µm⁻¹ to W m⁻² sr⁻¹ nm⁻¹."""

_L1_CODES = {1: ERROR_INVALID_L1, 2: ERROR_SATURATED, 4: ERROR_INVALID_L1}
"""Defective element, saturated, not a number; 3 is a lower confidence after the detectors were aligned."""


def encoding_of(file: He5File, level: str, bands: BandTable) -> Encoding:
    """Return how a level stores what it measured, with what turns it into reflectance.

    Radiance L becomes π L d² / (E cos θ) with the sun's irradiance E outside the atmosphere, its distance d and its
    zenith angle θ.

    Raises
    ------
    InputError
        An attribute is missing or cannot be meant.
    """
    if level in ("2C", "2D"):
        scale = {name: header.read_scale(file, name.capitalize()) for name in header.DETECTORS}
        return Encoding("PIXEL_L2_ERR_MATRIX", True, scale)
    scale = {name: header.read_radiance_scale(file, name.capitalize(), level) for name in header.DETECTORS}
    zenith, moment = file.optional_number("Sun_zenith_angle"), header.read_time(file, "Product_StartTime")
    factor = _NANOMETRES_PER_MICROMETRE * reflectance_per_radiance(bands, zenith, moment, str(file.path))
    if level == "2B":
        return Encoding("PIXEL_L2_ERR_MATRIX", True, scale, factor.astype(np.float32))
    bits = np.zeros(256, np.uint8)
    for code, bit in _L1_CODES.items():
        bits[code] = bit
    return Encoding("PIXEL_SAT_ERR_MATRIX", False, scale, factor.astype(np.float32), bits)


def level_warnings(level: str) -> list[str]:
    """Return what is to be said about a level."""
    said = []
    if level != "2D":
        said.append(
            f"L{level} has no map grid: the cube was geocoded through its latitude and longitude arrays, without "
            "terrain correction. Prefer L2D."
        )
    if level == "2B":
        said.append(
            "L2B holds radiance at the surface: divided by the irradiance outside the atmosphere, its reflectance is "
            "too low by what the atmosphere absorbs on the way down."
        )
    return said


def radiometry_of(level: str) -> str:
    """Return which reflectance a level gives."""
    return "top of atmosphere" if level == "1" else "surface"
