"""Evidence at low resolution that the guide shows other ground, or the same ground differently."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.change.local import best_correction
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model.relation import CoarsePair, Contradiction, GuideRelation, relate

FloatArray = NDArray[np.float64]

_CORRECTIONS = 2
_TEXTURE_PX, _LEAST_CORRELATION = 2.0, 0.5
_WEAK_DISTANCE, _NO_DISTANCE, _NO_WEIGHT = 20.0, 100.0, 1e-5


@dataclass(frozen=True)
class Evidence:
    """What the pair shows at low resolution.

    Attributes
    ----------
    relation
        Of the corrected guide and the HSI.
    blurred
        The corrected guide at low resolution, shape (msi band, row, col).
    contradiction
        Where they contradict each other all the same.
    corrections
        How often a local affine correction was applied.
    disagreement
        Share of the valid ground where the texture of the guide as it came is not that of the HSI.
    """

    relation: GuideRelation
    blurred: FloatArray
    contradiction: Contradiction
    corrections: int
    disagreement: float


def gather_evidence(
    pair: CoarsePair, msi: NDArray[np.float32], response: Response, *, correct: bool = True
) -> tuple[Evidence, NDArray[np.float32]]:
    """Relate both images and correct what differs smoothly.

    Parameters
    ----------
    pair
        The HSI's side.
    msi
        The guide, shape (msi band, row * ratio, col * ratio), free of NaN.
    response
        The HSI's response to it.
    correct
        Whether smooth differences are taken out of the guide.

    Returns
    -------
    evidence : Evidence
        What is left to explain.
    corrected : numpy.ndarray
        The guide without the field of gain and offset and without what a local affine correction takes out, the shape
        of ``msi``.
    """
    relation = relate(pair, response.down(msi), field=True)
    disagreement = texture_disagreement(relation.seen, response.down(msi), pair.valid)
    corrected = msi
    count = 0
    if correct:
        corrected = ((msi - response.up(relation.offset)) / response.up(relation.gain)).astype(np.float32)
        for _ in range(_CORRECTIONS):
            more = _locally_corrected(pair, corrected, relation, response)
            if more is None:
                break
            corrected, count = more, count + 1
            relation = _keep_field(relate(pair, response.down(corrected)), relation)
    else:
        relation = relate(pair, response.down(msi))
    blurred = response.down(corrected)
    return Evidence(
        relation, blurred, Contradiction.find(relation, blurred, pair.valid), count, disagreement
    ), corrected


def texture_disagreement(seen: FloatArray, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Share of valid pixels around which the details of both images correlate by less than a half.

    Light, haze and seasons leave texture where it is; other ground has another one. When most of the ground changed,
    distances mean nothing, because the relation itself is that of the majority; this still tells.
    """
    a, b = (x - gaussian_filter(x, (0, _TEXTURE_PX, _TEXTURE_PX)) for x in (seen, msi))

    def window(x: FloatArray) -> FloatArray:
        return np.asarray(gaussian_filter(x * valid, (0, _TEXTURE_PX, _TEXTURE_PX)).sum(axis=0))

    scale = 1.0 / np.maximum((b[:, valid] ** 2).mean(axis=1), 1e-20)[:, None, None]
    product, left, right = window(scale * a * b), window(scale * a * a), window(scale * b * b)
    correlation = product / np.sqrt(np.maximum(left * right, 1e-20))
    return float((correlation[valid] < _LEAST_CORRELATION).mean()) if valid.any() else 0.0


def _locally_corrected(
    pair: CoarsePair, guide: NDArray[np.float32], relation: GuideRelation, response: Response
) -> NDArray[np.float32] | None:
    seen, blurred = relation.seen, response.down(guide)
    noise = (relation.synthesis**2).sum(axis=1) + 1e-4 * seen[:, pair.valid].var(axis=1)
    weight = np.where(
        relation.distance < _NO_DISTANCE, 1.0 / (1.0 + relation.distance / _WEAK_DISTANCE) ** 2, _NO_WEIGHT
    )
    change = best_correction(seen, blurred, noise, np.where(pair.valid, weight, 1e-9))
    if change is None:
        return None
    bands = len(guide)
    corrected = guide.copy()
    for band in range(bands):
        terms = response.up(change[band])
        corrected[band] += (np.einsum("phw,phw->hw", terms[:bands], guide) + terms[bands]).astype(np.float32)
    return corrected


def _keep_field(relation: GuideRelation, first: GuideRelation) -> GuideRelation:
    return replace(relation, gain=first.gain, offset=first.offset)
