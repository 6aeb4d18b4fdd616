"""What a guide says about itself and the HSI contradicts: bands in another order, numbers of another scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.classical.statistics import MIN_PIXELS
from hsfuse.inference.scene_survey import Survey

FloatMatrix = NDArray[np.float64]
_PIXELS = 10_000
"""Pixels that are compared, about."""
_ORDER_GAIN, _ORDER_LEAST = 0.2, 0.8
"""How much better both of two bands must correlate with each other's prediction, and how well: neighbours in the
visible differ less, and a season does not exchange bands."""
_CLEAR_ORDER_GAIN, _CLEAR_ORDER_LEAST = 0.5, 0.6
"""The same where they do so far better: under haze a band correlates less with anything."""
_OFF_SCALE = 3.0
"""Factor between what the guide holds and what the HSI shows of it, from which on in every band its scale is in doubt:
haze, and light of another day, change dark bands by so much, but not all of them."""


def guide_notes(survey: Survey, blurred: NDArray[np.floating]) -> tuple[str, ...]:
    """Sentences about a guide that contradicts its description; none without responses.

    Parameters
    ----------
    survey
        The scene.
    blurred
        The guide as the HSI would see it, shape (msi band, row, col).
    """
    predicted, places = survey.pair.predicted, np.flatnonzero(survey.pair.valid)
    if predicted is None or places.size < MIN_PIXELS:
        return ()
    places = places[:: max(places.size // _PIXELS, 1)]
    seen, told = (np.asarray(x.reshape(len(predicted), -1)[:, places], np.float64) for x in (blurred, predicted))
    return (*_order(seen, told), *_scale(seen, told))


def exchanged_bands(seen: FloatMatrix, told: FloatMatrix) -> list[tuple[int, int]]:
    """Pairs of bands each of which looks like what the HSI shows of the other.

    Parameters
    ----------
    seen, told
        The guide's bands, and what the HSI shows of them, shape (msi band, pixel).
    """
    bands = len(seen)
    if min(float(x.std(axis=1).min()) for x in (seen, told)) == 0.0:
        return []
    alike = np.corrcoef(seen, told)[:bands, bands:]
    gain = alike - np.diag(alike)[:, None]
    better = (gain > _ORDER_GAIN) & (alike > _ORDER_LEAST)
    clear = (gain > _CLEAR_ORDER_GAIN) & (alike > _CLEAR_ORDER_LEAST)
    both = (better & better.T) | (clear & clear.T)
    return [(j, i) for i in range(bands) for j in range(i) if both[i, j]]


def _order(seen: FloatMatrix, told: FloatMatrix) -> tuple[str, ...]:
    pairs = exchanged_bands(seen, told)
    if not pairs:
        return ()
    named = ", ".join(f"{j + 1} and {i + 1}" for j, i in pairs)
    return (
        f"The multispectral bands {named} look exchanged: each is like what the hyperspectral image shows of the "
        "other; check their order and wavelengths.",
    )


def _scale(seen: FloatMatrix, told: FloatMatrix) -> tuple[str, ...]:
    """Doubt the scale of a guide all of whose bands are many times brighter or darker than they should be."""
    levels = np.median(seen, axis=1), np.median(told, axis=1)
    if min(float(level.min()) for level in levels) <= 0.0:
        return ()
    factors = levels[0] / levels[1]
    mean = float(np.exp(np.log(factors).mean()))
    if not (factors.min() > _OFF_SCALE or factors.max() < 1.0 / _OFF_SCALE):
        return ()
    return (
        f"The multispectral image holds {mean:.2g} times the reflectance that the hyperspectral image shows of its "
        "bands: check the scale of both. The fusion takes the factor out.",
    )
