"""Ground in other light: one gain by band for a whole scene, because all cast shadows of a day lack the same light.

A gain from a shadow's own few pixels is uncertain, most of all at its edge and where it is thin. The sun's direct light
that shadows lack is the same share everywhere, so every candidate pixel's own ratio is a hypothesis, and the one that
most other candidates agree with is the scene's (M. A. Fischler, R. C. Bolles, Random sample consensus, CACM 24, 1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.neighbours import neighbour_mean, over_neighbours
from hsfuse.fusion.scene_model.contradiction import Contradiction

FloatArray = NDArray[np.float64]

_HYPOTHESES = 200
_MOST_PIXELS = 4000
_LEAST_PIXELS, _LEAST_SHARE = 5, 0.04
"""Candidates that must agree, and their share of all."""
_DARKER = 0.25
"""Log of the gain, at least: what is less is no shadow."""
_MOST_COLOUR = 1.8
"""Largest ratio of the gains of two bands: light changes them all."""
_AGREEMENT = 0.5
"""Squared error that is left, over that of the four neighbours' prediction, below which a pixel agrees."""
_TOLERANCE = 0.06
"""Log of a pixel's own gain over the common one, at most: pixels that are covered in part have any gain."""
_MUCH_SUPPORT = 0.5
_ROUNDS = 3


@dataclass(frozen=True)
class CommonLight:
    """Result.

    Attributes
    ----------
    gain
        By which the guide must be multiplied in other light, shape (msi band,).
    agreeing
        Candidates that agree, shape (row, col) on the coarse grid.
    """

    gain: FloatArray
    agreeing: NDArray[np.bool_]


def common_light(seen: FloatArray, blurred: FloatArray, contradiction: Contradiction) -> CommonLight | None:
    """Find the gain that most candidates share; None where too few agree.

    Parameters
    ----------
    seen, blurred
        What the HSI shows of the MSI bands, and the guide at low resolution, shape (msi band, row, col).
    contradiction
        Of both.
    """
    places = np.flatnonzero(contradiction.candidates)
    if places.size < _LEAST_PIXELS:
        return None
    places = places[:: -(-places.size // _MOST_PIXELS)]
    shown, measured, around = (x.reshape(len(x), -1)[:, places] for x in (seen, blurred, neighbour_mean(seen)))
    scale = contradiction.power[:, None]
    allowed = _AGREEMENT * ((shown - around) ** 2 / scale).mean(axis=0)

    own = np.log(np.maximum(shown, 1e-6) / np.maximum(measured, 1e-6))

    def agreeing(gain: FloatArray) -> NDArray[np.bool_]:
        error = ((gain[:, None] * measured - shown) ** 2 / scale).mean(axis=0)
        return np.asarray((error < allowed) & (np.abs(own - np.log(gain)[:, None]).max(axis=0) < _TOLERANCE))

    ratio = np.exp(own[:, :: -(-places.size // _HYPOTHESES)])
    usable = (np.log(ratio) > _DARKER).all(axis=0) & (ratio.max(axis=0) < _MOST_COLOUR * ratio.min(axis=0))
    if not usable.any():
        return None
    hypotheses = ratio.T[usable]
    counts = np.array([int(agreeing(each).sum()) for each in hypotheses])
    # Along a straight edge many pixels are covered by the same part: of gains with much support the largest is whole.
    gain = max(hypotheses[counts >= _MUCH_SUPPORT * counts.max()], key=lambda each: float(each.mean()))
    for _ in range(_ROUNDS):
        inside = agreeing(gain)
        if inside.sum() < max(_LEAST_PIXELS, _LEAST_SHARE * places.size):
            return None
        gain = (shown * measured)[:, inside].sum(axis=1) / np.maximum((measured[:, inside] ** 2).sum(axis=1), 1e-20)
    error = ((gain[:, None, None] * blurred - seen) ** 2 / contradiction.power[:, None, None]).mean(axis=0)
    near = _AGREEMENT * (over_neighbours(seen) ** 2 / contradiction.power[:, None, None]).mean(axis=0)
    return CommonLight(gain, np.asarray(contradiction.candidates & (error < near)))
