"""Radiance at the top of the atmosphere as reflectance: the sun's irradiance, its distance and its height.

The irradiance is the extraterrestrial spectrum of ASTM G173-03 (Gueymard 2004), averaged over nanometres.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.spectral import FWHM_TO_SIGMA, BandTable

MAX_ZENITH_DEG = 88.0


@cache
def _spectrum() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with files("hsfuse.readers").joinpath("data/solar_irradiance.npz").open("rb") as stream, np.load(stream) as stored:
        return stored["wavelength_nm"].astype(np.float64), stored["irradiance"].astype(np.float64)


def band_irradiance(bands: BandTable) -> NDArray[np.float64]:
    """Solar irradiance at one astronomical unit in W m⁻² nm⁻¹, weighted by Gaussian responses, shape (band,)."""
    nm, irradiance = _spectrum()
    sigma = np.maximum(bands.fwhm_nm, 1.0)[:, None] * FWHM_TO_SIGMA
    weights = np.exp(-0.5 * ((nm[None, :] - bands.centre_nm[:, None]) / sigma) ** 2)
    mean: NDArray[np.float64] = (weights @ irradiance) / weights.sum(axis=1)
    return mean


def sun_distance_au(moment: datetime) -> float:
    """Distance of the sun in astronomical units, to 1e-4 (Astronomical Almanac's low-precision formula)."""
    days = (moment.replace(tzinfo=None) - datetime(2000, 1, 1, 12)).total_seconds() / 86400.0
    anomaly = np.deg2rad(357.529 + 0.98560028 * days)
    return float(1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly))


def reflectance_per_radiance(
    bands: BandTable, sun_zenith_deg: float | None, moment: datetime | None, name: str
) -> NDArray[np.float64]:
    """Return the factor from radiance (W m⁻² sr⁻¹ nm⁻¹) to reflectance, π d² / (E cos θ), shape (band,).

    Raises
    ------
    InputError
        The sun's height or the time are not known, or the sun is below the horizon.
    """
    if sun_zenith_deg is None or moment is None or not 0 <= sun_zenith_deg < MAX_ZENITH_DEG:
        raise InputError(
            f"{name}: radiance becomes reflectance by the sun's zenith angle and the date, which are missing or out of "
            f"range ({sun_zenith_deg} degrees, {moment}).",
            hint="Order a product of surface reflectance.",
        )
    cosine = np.cos(np.deg2rad(sun_zenith_deg))
    factor: NDArray[np.float64] = np.pi * sun_distance_au(moment) ** 2 / (band_irradiance(bands) * cosine)
    return factor
