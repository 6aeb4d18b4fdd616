"""Shadows: dark ground lies elsewhere when the sun stands elsewhere, and takes the match with it.

Two images at low sun hold the same shadows in different places, and all windows are drawn the same way: tie points
and check points share that bias. What is dark beside its surroundings is left out, and if the rest of the image says
otherwise, the rest is believed where it is sure of itself; where it is not, the difference is part of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.refine import Refiner, Warped
from hsfuse.coregister.sampling import Smoother
from hsfuse.coregister.threads import parallel_map

_DARK, _AROUND_PX = 0.6, 12.0
"""Shadow: darker than this share of the mean of its surroundings of this scale."""
_GROWTH_PX = 1
"""How far the blurred edge of a shadow reaches."""
_LEAST_SHARE = 0.02
_USUAL_DARK_SHARE, _PER_DARK_SHARE = 0.2, 2.8
"""Share of dark pixels that water and dark fields have in flat land, and error in standard errors of a tie point for
each unit of the share beyond."""
_LEAST_SCATTER, _MORE_SCATTER, _MOST_SQUARE, _FEWEST_POINTS = 0.7, 1.25, 25.0, 12
_DOUBTFUL, _SIGNIFICANT = 1.5, 2.5
"""Fields may differ, and differ, when they do by so many of their joint standard errors."""
_CERTAIN, _KEPT_SHARE = 0.25, 0.1
"""The image without shadow decides when its error is less than this share of the difference; what of it remains."""


@dataclass(frozen=True)
class ShadowBias:
    """How far shadows pulled the field.

    Attributes
    ----------
    difference
        Root mean square distance in pixels between the fields with and without dark ground.
    corrected
        Whether the field without dark ground was taken.
    variance
        Variance (square pixels, one coordinate) that it adds to the error.
    """

    difference: float
    corrected: bool
    variance: float

    @classmethod
    def of(cls, difference: float, error_with: float, error_without: float) -> ShadowBias | None:
        """Decide between the fields by their difference and their errors (pixels); None when they are alike."""
        chance = math.hypot(error_with, error_without)
        if difference < _DOUBTFUL * chance:
            return None
        if difference < _SIGNIFICANT * chance:
            # Not enough to decide by, but what is beyond chance is not known to be right either.
            return cls(difference, False, (difference**2 - chance**2) / 2.0)
        corrected = error_without < _CERTAIN * difference
        left = _KEPT_SHARE * difference if corrected else difference
        return cls(difference, corrected, left**2 / 2.0)


def lit_pixels(refiner: Refiner, warped: Warped) -> Tensor | None:
    """Pixels that are dark in neither image, shape (row, col); None when hardly any is dark."""
    mask = (refiner.target_valid & warped.usable).float()
    smoother = Smoother(refiner.height, refiner.width, _AROUND_PX, refiner.device)
    total = smoother.total(mask)

    def darker(brightness: Callable[[], Tensor]) -> Tensor:
        seen = brightness()
        return seen < _DARK * smoother.mean(seen, mask, total)

    images: list[Callable[[], Tensor]] = [refiner.target_brightness, partial(refiner.reference_brightness, warped)]
    dark, also = parallel_map(darker, images)
    dark |= also
    dark &= mask > 0
    if float(dark.sum()) < _LEAST_SHARE * float(mask.sum()):
        return None
    side = 2 * _GROWTH_PX + 1
    grown = torch.nn.functional.max_pool2d(dark.float()[None], side, stride=1, padding=_GROWTH_PX)[0]
    return grown == 0


def light_variance(lit: Tensor, sigma: float) -> float:
    """Variance of the displacement (one coordinate) that light and shade pretend when the sun stands elsewhere.

    On lit slopes too the pattern moves with the sun, and all windows and check points are drawn alike, so nothing in
    the pair tells how far. On generated mountains (sun 11 to 25 degrees high, azimuths 30 to 55 degrees apart) it was
    in proportion to the standard error of a tie point and to the share of dark ground beyond what flat land has.

    Parameters
    ----------
    lit
        Pixels that are not dark, shape (row, col).
    sigma
        Usual standard error of a tie point (one coordinate).
    """
    dark = 1.0 - float(lit.float().mean())
    return (_PER_DARK_SHARE * max(0.0, dark - _USUAL_DARK_SHARE) * sigma) ** 2 / 2.0


def is_biased(lit: Points, field: FloatArray, every: Points, every_field: FloatArray) -> bool:
    """Whether points on lit ground scatter more around a field than the points that made it.

    ``field`` and ``every_field`` hold the field at either set of points, shape (point, 2).
    """
    if min(lit.size, every.size) < _FEWEST_POINTS:
        return False
    scatter = _scatter(lit, field)
    return scatter > max(_LEAST_SCATTER, _MORE_SCATTER * _scatter(every, every_field))


def _scatter(points: Points, field: FloatArray) -> float:
    """Mean square residual in units of the points' variance."""
    square = ((points.value - field) ** 2).sum(axis=1) / (2.0 * points.sigma**2)
    return float(np.minimum(square, _MOST_SQUARE).mean())
