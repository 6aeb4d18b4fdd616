"""Spectral responses with which the guide of a training scene is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.sensors.prisma import PAN_NAME, PAN_RANGE_NM, pan_response
from hsfuse.sensors.sentinel2 import SPACECRAFT, table_responses
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights

_SHIFTS_NM = (0.0, -3.0, 3.0)


def guide_weights(bands: BandTable, names: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
    """Weights of the bands in the guide: a nominal response first, then others that it may have.

    Of Sentinel-2 those of every spacecraft, shifted by 3 nm either way; of a panchromatic camera, whose response is not
    published, the nominal one and several others over nearly the same range.

    Raises
    ------
    InputError
        The bands do not reach under some band of the guide.
    """
    if tuple(names) == (PAN_NAME,):
        variants: list[Sequence[SpectralResponse]] = [[response] for response in pan_responses()]
    else:
        variants = [table_responses(spacecraft, names) for spacecraft in SPACECRAFT]
    found = []
    for responses in variants:
        for shift in _SHIFTS_NM:
            weights = srf_weights(replace(bands, centre_nm=bands.centre_nm + shift), responses)
            empty = [name for name, row in zip(names, weights, strict=True) if not row.any()]
            if empty:
                raise InputError(
                    f"No band lies under the guide's band {empty[0]}, so it cannot be simulated.",
                    hint="Use bands from 450 to 900 nm at least.",
                )
            found.append(weights)
    return tuple(found)


def pan_responses() -> tuple[SpectralResponse, ...]:
    """Responses that a panchromatic camera may have: the nominal one, and such as lean to either end."""
    nominal = pan_response()
    low, high = PAN_RANGE_NM
    place = (nominal.wavelength_nm - low) / (high - low)
    leaning = [
        replace(nominal, response=nominal.response * np.clip(1.0 + lean * (place - 0.5), 0.0, None))
        for lean in (-1.0, 1.0)
    ]
    wider = SpectralResponse.flat_top(PAN_NAME, 0.5 * (low + high) + 25.0, high - low + 50.0, order=4)
    return (nominal, *leaning, wider)
