"""Evidence at low resolution that the guide shows other ground, or the same ground differently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import release_freed_memory
from hsfuse.fusion.change.corrections import NO_WEIGHT, CorrectedGuide, LocalCorrections, Refine, difference_noise
from hsfuse.fusion.change.places import correct_places, correction_of_places
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.season import refined_season
from hsfuse.fusion.change.shadows import Shadows, find_shadows
from hsfuse.fusion.scene_model.contradiction import DISPLACED_PX, Contradiction, misfit
from hsfuse.fusion.scene_model.pair import CoarsePair, GuideRelation
from hsfuse.fusion.scene_model.relation import first_weights, relate
from hsfuse.parallel import together

FloatArray = NDArray[np.float64]

_FIELD_GAIN = 0.85
"""A field of gain and offset must bring the misfit to this share of what it is without, or the guide stays as it is."""
_THINNED = 2
"""Every so many rows and columns of a large scene tell whether a field may be of use."""
_LEAST_PIXELS = 60
"""Valid HSI pixels from which a field of gain and offset can be told from what two images differ in anyway, and from
which leave-one-out errors can: on tuning cubes of 80 to 198 pixels a season lost 0.5 dB, a mix 1.1 dB and haze 0.9 dB
more without."""
_WEAK_DISTANCE = 20.0
_PLACE_ROUNDS, _PLACE_DISTANCE, _LEAST_PLACES = 3, 1000.0, 1e-4
"""Corrections of places, one after another; the scale of their weights, for little ground that has turned stands
farther off than a season of the whole scene; and the share of the ground that is worth relating all of it once more."""


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
        How often a local affine correction was applied to all of the guide; those of places do not count.
    unexplained
        Share of the variance of the guide as it came that the HSI does not explain on trusted ground.
    correction_error
        Mean square of the last correction's leave-one-out errors, shape (msi band,); zeros without one
        and where images are displaced locally.
    first_misfit
        Squared error of the guide before any local correction, mean over the bands in units of their variance, shape
        (row, col): foreign ground of some size is partly corrected away.
    shadows
        Cast shadows that the corrected guide was brought out of; None where there are none.
    """

    relation: GuideRelation
    blurred: FloatArray
    contradiction: Contradiction
    corrections: int
    unexplained: float
    correction_error: FloatArray
    first_misfit: FloatArray
    shadows: Shadows | None = None


def gather_evidence(
    pair: CoarsePair, msi: NDArray[np.float32], response: Response, *, correct: bool = True, threads: int = 1,
    overwrite: bool = False, refine: Refine = refined_season,
) -> tuple[Evidence, NDArray[np.float32]]:  # fmt: skip
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
    threads
        How many work side by side.
    overwrite
        Whether the corrected guide may take the place of ``msi``.
    refine
        What refines a guide that was corrected all over.

    Returns
    -------
    evidence : Evidence
        What is left to explain.
    corrected : numpy.ndarray
        The guide without the field of gain and offset, without cast shadows, and without what local affine corrections
        take out, of all of it and of places, the shape of ``msi``.
    """
    low = response.down(msi)
    correct = correct and int(pair.valid.sum()) >= _LEAST_PIXELS
    start = first_weights(pair, low, threads)
    plain, hopeful = together(
        partial(relate, pair, low, start=start, threads=threads),
        partial(_may_have_field, pair, low, start, threads) if correct else bool,
        threads=threads,
    )
    field = _field(pair, low, plain, start, threads) if hopeful else None
    unexplained = unexplained_share(plain, low, pair.valid)
    corrected, relation = msi, plain
    if field is not None:
        relation = field
        # Band by band: the fine images of a whole scene are large.
        corrected = msi if overwrite else np.empty(msi.shape, np.float32)
        for band, image in enumerate(corrected):
            np.subtract(msi[band], response.up_single(relation.offset[band][None])[0], out=image)
            image /= response.up_single(relation.gain[band][None])[0]
        # The guide was corrected by as much; in double precision both would be twice as large.
        relation = replace(relation, gain=relation.gain.astype(np.float32), offset=relation.offset.astype(np.float32))
    of_field = field is not None
    blurred = response.down(corrected) if of_field else low
    # All are images of the whole scene, and what follows needs its memory.
    del plain, field, low, start

    def contradiction(state: CorrectedGuide, apart_px: float | None) -> Contradiction:
        return Contradiction.find(
            state.relation, state.blurred, pair.valid, pair.rim, blind=pair.predicted is None, displaced_px=apart_px
        )

    state = CorrectedGuide(corrected, blurred, relation)
    # First of all: a shadow would bend a local correction.
    found = contradiction(state, None)
    apart_px = found.displacement_px
    displaced = correct and apart_px > DISPLACED_PX
    shadows = find_shadows(corrected, blurred, relation, found, response, threads)
    if shadows is not None:
        guide = corrected if of_field or overwrite else corrected.copy()
        state = _out_of_shadow(pair, replace(state, guide=guide), shadows, response, threads)
    del corrected, blurred, relation
    first_misfit = misfit(state.blurred, state.relation.seen, pair.valid)
    local = LocalCorrections(
        pair, response, refine, of_field=of_field, displaced=displaced, threads=threads,
        overwrite=overwrite or state.guide is not msi,
    )  # fmt: skip
    more = local.next(state) if correct else None
    if more is not None:
        held = [(state, more)]
        # Images of the whole scene, which are handed over.
        del state, found, more
        state = local.applied(held)
        found = contradiction(state, None)
    elif shadows is not None:
        found = contradiction(state, apart_px)
    if correct and not displaced and pair.predicted is not None:
        own, looked = state.guide is not msi or overwrite, pair.valid
        for _ in range(_PLACE_ROUNDS):
            matrix = _correction_of_places(pair, state, found, looked, threads)
            if matrix is None:
                break
            # What was no season before is none now.
            looked = pair.valid & matrix.any(axis=(0, 1))
            if looked.sum() < _LEAST_PLACES * pair.valid.sum():
                break
            guide = state.guide if own else state.guide.copy()
            # Single pixels turn among others, unless so many do that all of the scene was corrected.
            noise = difference_noise(state.relation, pair.valid)
            correct_places(
                guide, matrix, state.relation.seen, state.blurred, noise, response, concentrate=not state.count,
                threads=threads,
            )  # fmt: skip
            gain, offset, count, error = state.relation.gain, state.relation.offset, state.count, state.error
            # Before the next relation of a whole scene takes their place.
            del matrix, state, found
            release_freed_memory()
            blurred = response.down(guide)
            relation = replace(relate(pair, blurred, threads=threads), gain=gain, offset=offset)
            state = CorrectedGuide(guide, blurred, relation, count, error)
            found, own = contradiction(state, None), True
    # Where images are displaced locally, what is left is that rather than an error of the guide.
    error = np.zeros(len(msi)) if state.error is None or displaced else state.error
    evidence = Evidence(state.relation, state.blurred, found, state.count, unexplained, error, first_misfit, shadows)
    return evidence, state.guide


def _may_have_field(pair: CoarsePair, low: FloatArray, start: FloatArray | None, threads: int) -> bool:
    """Whether a field of gain and offset is of use on every so many pixels of a large scene, which has a start.

    A field follows fewer pixels in a window the more: what brings little there brings no more in all of it.
    """
    if start is None:
        return True
    part = (..., slice(None, None, _THINNED), slice(None, None, _THINNED))
    thin = CoarsePair(
        pair.components[part],
        None if pair.predicted is None else pair.predicted[part],
        pair.level,
        pair.valid[part],
    )
    some, weight = np.ascontiguousarray(low[part]), start[part]
    before = relate(thin, some, start=weight, threads=threads)
    after = relate(thin, some, field=True, start=weight, threads=threads, spacing=_THINNED)
    return _loss(after, some, thin.valid) <= _FIELD_GAIN * _loss(before, some, thin.valid)


def _field(
    pair: CoarsePair, low: FloatArray, plain: GuideRelation, start: FloatArray | None, threads: int
) -> GuideRelation | None:
    """Return the relation with a field of gain and offset where it is much better than the plain one."""
    relation = relate(pair, low, field=True, start=start, threads=threads)
    gained = _loss(relation, low, pair.valid) <= _FIELD_GAIN * _loss(plain, low, pair.valid)
    return relation if gained else None


def _out_of_shadow(
    pair: CoarsePair, state: CorrectedGuide, shadows: Shadows, response: Response, threads: int
) -> CorrectedGuide:  # fmt: skip
    """Bring a guide, which is written to, out of shadows."""
    shadows.lit(state.guide)
    blurred = response.down(state.guide)
    relation = _keep_field(relate(pair, blurred, threads=threads), state.relation)
    return replace(state, blurred=blurred, relation=relation)


def _correction_of_places(
    pair: CoarsePair, state: CorrectedGuide, found: Contradiction, looked: NDArray[np.bool_], threads: int
) -> NDArray[np.float32] | None:
    relation = state.relation
    # A turned plant is told by the guide worse than before, but better than by its neighbours; other ground is not.
    foreign = found.candidates | (found.rivalry > 1.0)
    weight = np.where(pair.valid, 1.0 / (1.0 + relation.distance / _PLACE_DISTANCE) ** 2, NO_WEIGHT)
    noise = difference_noise(relation, pair.valid)
    return correction_of_places(relation.seen, state.blurred, noise, weight, foreign, pair.valid, looked, threads)


def unexplained_share(relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Share of the guide's variance that the HSI does not explain on trusted ground, mean over the bands, 0 to 1."""
    weight = relation.weight[valid]
    measured = ((msi - relation.offset) / relation.gain)[:, valid]
    mean = (measured * weight).sum(axis=1, keepdims=True) / weight.sum()
    spread = ((measured - mean) ** 2 * weight).sum(axis=1)
    left = ((measured - relation.seen[:, valid]) ** 2 * weight).sum(axis=1)
    return float(np.clip(left / np.maximum(spread, 1e-20), 0.0, 1.0).mean())


def _loss(relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Mean squared residual in units of each band's noise, weighted as the relation does."""
    left = ((msi - relation.offset) / relation.gain - relation.seen)[:, valid] ** 2
    noise = difference_noise(relation, valid)
    weight = 1.0 / (1.0 + relation.distance[valid] / _WEAK_DISTANCE) ** 2
    return float(((left / noise[:, None]).mean(axis=0) * weight).sum() / weight.sum())


def _keep_field(relation: GuideRelation, first: GuideRelation) -> GuideRelation:
    return replace(relation, gain=first.gain, offset=first.offset)
