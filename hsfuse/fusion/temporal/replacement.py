"""Where the guide shows other ground than the HSI and a partner does not: the partner's detail in the HSI's colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model.pair import GuideRelation

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_AROUND_PX = 0.7
_BETTER, _USUAL = 0.25, 5.0
"""Squared misfit of the partner over that of the guide, and over its own typical one, below which the partner shows
the HSI's ground."""
_STEPS = 2


def partner_misfit(relation: GuideRelation, image: FloatArray) -> FloatArray:
    """Squared misfit of an image to what the HSI shows, in units of the relation's variance.

    Parameters
    ----------
    relation
        Of the guide and the HSI.
    image
        As the HSI would see it, shape (band, row, col); NaN where it is not known.

    Returns
    -------
    numpy.ndarray
        Shape (row, col), infinite where the image is not known.
    """
    known = np.isfinite(image).all(axis=0)
    left = (np.where(known, image, 0.0) - relation.offset) / relation.gain - relation.seen
    misfit = gaussian_filter((left**2 / relation.variance).mean(axis=0), _AROUND_PX, mode="nearest")
    return np.where(known, misfit, np.inf)


def better_partner(contradicted: BoolArray, guide_misfit: FloatArray, misfit: FloatArray) -> BoolArray:
    """Mark HSI pixels that a partner shows as the HSI does while the guide does not, with their neighbours.

    Parameters
    ----------
    contradicted
        Where the guide contradicts the HSI, shape (row, col).
    guide_misfit, misfit
        :func:`partner_misfit` of the guide and of the partner, shape (row, col).
    """
    known = np.isfinite(misfit)
    if not known.any():
        return known
    usual = known & (misfit < _USUAL * float(np.median(misfit[known])))
    better = contradicted & usual & (misfit < _BETTER * guide_misfit)
    return np.asarray(binary_dilation(better, np.ones((3, 3), bool)) & usual, np.bool_)


def detail_of_partner(joined: FloatCube, seen: FloatArray, response: Response) -> tuple[FloatCube, FloatCube]:
    """What the HSI says about a block, and the same with the detail of a partner.

    Parameters
    ----------
    joined
        Shape (band, row * ratio, col * ratio), finite.
    seen
        What the HSI shows of the guide's bands, shape (band, row, col).
    response
        The HSI's response.
    """
    plain, detailed = response.up(seen), joined.astype(np.float64)
    for _ in range(_STEPS):
        detailed += response.up(seen - response.down(detailed))
    plain += response.up(seen - response.down(plain))
    return plain.astype(np.float32), detailed.astype(np.float32)
