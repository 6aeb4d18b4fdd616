"""Evidence at low resolution that the guide shows other ground, or the same ground differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import release_freed_memory
from hsfuse.fusion.change.choice import LEAST_BLIND_GAIN, LEAST_GAIN, CorrectionData, best_correction
from hsfuse.fusion.change.local import Correction
from hsfuse.fusion.change.pattern import ColourFunctions, ScenePattern
from hsfuse.fusion.change.places import correct_places, correction_of_places
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.season import UNKNOWN, SeasonData, refined_season
from hsfuse.fusion.change.shadows import Shadows, find_shadows
from hsfuse.fusion.scene_model.contradiction import DISPLACED_PX, Contradiction, misfit
from hsfuse.fusion.scene_model.pair import CoarsePair, GuideRelation
from hsfuse.fusion.scene_model.relation import first_weights, relate, some_blocks
from hsfuse.parallel import together

FloatArray = NDArray[np.float64]
Refine = Callable[[SeasonData, int], NDArray[np.float32]]
"""See :func:`~hsfuse.fusion.change.season.refined_season`."""

_CORRECTIONS = 3
_FIELD_GAIN = 0.85
"""A field of gain and offset must bring the misfit to this share of what it is without, or the guide stays as it is."""
_THINNED = 2
"""Every so many rows and columns of a large scene tell whether a field may be of use."""
_LEAST_PIXELS = 60
"""Valid HSI pixels from which a field of gain and offset can be told from what two images differ in anyway, and from
which leave-one-out errors can: on tuning cubes of 80 to 198 pixels a season lost 0.5 dB, a mix 1.1 dB and haze 0.9 dB
more without."""
_WEAK_DISTANCE = 20.0
_LOCAL_DISTANCE = 200.0
"""As the first for what a local correction is fitted on: a season on little ground of a scene stands far off, and it is
that ground which must be corrected."""
_JUDGED_DISTANCE, _NO_DISTANCE, _NO_WEIGHT = 50.0, 400.0, 1e-5
"""Whether a correction is made is judged by ground that is trusted more. On pairs of nine tuning cubes with parcels,
clouds and shadows 0.93 of the error and more are left, with seasons 0.72 and less."""
_PLACE_ROUNDS, _PLACE_DISTANCE, _LEAST_PLACES = 3, 1000.0, 1e-4
"""Corrections of places, one after another; the scale of their weights, for little ground that has turned stands
farther off than a season of the whole scene; and the share of the ground that is worth relating all of it once more."""
_FURTHER_GAIN = 0.9
"""Share of the error that must not be exceeded by a correction after another, or after a field: what both images differ
in is known by then."""


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
    of_field = field is not None
    blurred = response.down(corrected) if of_field else low
    # All are images of the whole scene, and what follows needs its memory.
    del plain, field, low, start

    def contradiction(state: _Corrected, apart_px: float | None) -> Contradiction:
        return Contradiction.find(
            state.relation, state.blurred, pair.valid, pair.rim, blind=pair.predicted is None, displaced_px=apart_px
        )

    state = _Corrected(corrected, blurred, relation)
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
    if correct:
        state = _locally_corrected(
            pair, state, response, refine, of_field=of_field, displaced=displaced, threads=threads,
            overwrite=overwrite or state.guide is not msi,
        )  # fmt: skip
    if shadows is not None or state.count:
        found = contradiction(state, None if state.count else apart_px)
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
            correct_places(
                guide, matrix, state.relation.seen, state.blurred, _noise(state.relation, pair.valid), response,
                concentrate=not state.count, threads=threads,
            )  # fmt: skip
            gain, offset, count, error = state.relation.gain, state.relation.offset, state.count, state.error
            # Before the next relation of a whole scene takes their place.
            del matrix, state, found
            release_freed_memory()
            blurred = response.down(guide)
            relation = replace(relate(pair, blurred, threads=threads), gain=gain, offset=offset)
            state = _Corrected(guide, blurred, relation, count, error)
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


@dataclass(frozen=True)
class _Corrected:
    """A guide after some corrections, at both resolutions, and its relation to the HSI; as in :class:`Evidence`."""

    guide: NDArray[np.float32]
    blurred: FloatArray
    relation: GuideRelation
    count: int = 0
    error: FloatArray | None = None


def _out_of_shadow(
    pair: CoarsePair, state: _Corrected, shadows: Shadows, response: Response, threads: int
) -> _Corrected:  # fmt: skip
    """Bring a guide, which is written to, out of shadows."""
    shadows.lit(state.guide)
    blurred = response.down(state.guide)
    relation = _keep_field(relate(pair, blurred, threads=threads), state.relation)
    return replace(state, blurred=blurred, relation=relation)


def _locally_corrected(
    pair: CoarsePair, state: _Corrected, response: Response, refine: Refine, *, of_field: bool, displaced: bool,
    threads: int, overwrite: bool,
) -> _Corrected:  # fmt: skip
    """Correct a guide, which may be overwritten or not, as long as it gains, and refine what was corrected."""
    before, candidates = state, None
    refined = pair.predicted is not None and not displaced
    for count in range(1, _CORRECTIONS + 1):
        more = _local_correction(
            pair, state, response, first=count == 1, further=of_field or count > 1, displaced=displaced
        )
        if more is None:
            break
        candidates = more.candidates if count == 1 else candidates
        # What a refinement asks for as it was is kept.
        in_place = count > 1 or (overwrite and not refined)
        guide, error = more.apply(state.guide, response, overwrite=in_place), more.error
        # An image of the whole scene, before the next ones are made.
        del more
        blurred = response.down(guide)
        relation = _keep_field(relate(pair, blurred, threads=threads), state.relation)
        state = _Corrected(guide, blurred, relation, count, error)
    if candidates is not None and refined:
        relation = state.relation
        data = SeasonData(
            before.guide, state.guide, before.blurred, state.blurred, relation.seen,
            np.where(pair.valid, relation.distance, UNKNOWN), _noise(relation, pair.valid), candidates, response,
        )  # fmt: skip
        guide = refine(data, threads)
        # Related anew, a few pixels would stand out as foreign ground only because all others agree better.
        state = replace(state, guide=guide, blurred=response.down(guide))
        del guide, data
    if overwrite and state.guide is not before.guide:
        # Whoever gave the guide may still hold it.
        before.guide[...] = state.guide
        state = replace(state, guide=before.guide)
    return state


def _correction_of_places(
    pair: CoarsePair, state: _Corrected, found: Contradiction, looked: NDArray[np.bool_], threads: int
) -> NDArray[np.float32] | None:
    relation = state.relation
    # A turned plant is told by the guide worse than before, but better than by its neighbours; other ground is not.
    foreign = found.candidates | (found.rivalry > 1.0)
    weight = np.where(pair.valid, 1.0 / (1.0 + relation.distance / _PLACE_DISTANCE) ** 2, _NO_WEIGHT)
    noise = _noise(relation, pair.valid)
    return correction_of_places(relation.seen, state.blurred, noise, weight, foreign, pair.valid, looked, threads)


def unexplained_share(relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Share of the guide's variance that the HSI does not explain on trusted ground, mean over the bands, 0 to 1."""
    weight = relation.weight[valid]
    measured = ((msi - relation.offset) / relation.gain)[:, valid]
    mean = (measured * weight).sum(axis=1, keepdims=True) / weight.sum()
    spread = ((measured - mean) ** 2 * weight).sum(axis=1)
    left = ((measured - relation.seen[:, valid]) ** 2 * weight).sum(axis=1)
    return float(np.clip(left / np.maximum(spread, 1e-20), 0.0, 1.0).mean())


def _local_correction(
    pair: CoarsePair, state: _Corrected, response: Response, *, first: bool, further: bool, displaced: bool
) -> Correction | None:  # fmt: skip
    """Find a further correction; None where it does not gain enough."""
    guide, blurred, relation, seen = state.guide, state.blurred, state.relation, state.relation.seen
    noise = _noise(relation, pair.valid)
    judged = np.where(
        relation.distance < _NO_DISTANCE, 1.0 / (1.0 + relation.distance / _JUDGED_DISTANCE) ** 2, _NO_WEIGHT
    )
    weight = 1.0 / (1.0 + relation.distance / _LOCAL_DISTANCE) ** 2
    weight, judged = (np.where(pair.valid, image, 1e-9) for image in (weight, judged))
    stacked = some_blocks(pair.valid.shape)
    uncertain = displaced or pair.predicted is None
    least = LEAST_BLIND_GAIN if uncertain else _FURTHER_GAIN if further else LEAST_GAIN

    def best(
        data: CorrectionData, pattern: tuple[ScenePattern, NDArray[np.float32]] | None = None,
        direction: FloatArray | None = None, *, keep: bool = first,
    ) -> Correction | None:  # fmt: skip
        return best_correction(
            replace(data, pattern=pattern), least, small=not displaced, keep=keep, direction=direction
        )  # fmt: skip

    whole = CorrectionData(seen, blurred, noise, weight, judged)
    # Seasons and sensors differ all over a scene: of a large one a part says whether all of it is worth while.
    part = None
    if stacked is not None:
        part = CorrectionData(stacked(seen), stacked(blurred), noise, stacked(weight), stacked(judged))
        if first and best(part) is None:
            return None
    if displaced:
        return best(whole)
    functions = ColourFunctions.of(guide)
    images = functions.blurred(guide, blurred, response)
    if stacked is None or part is None:
        return best(whole, (ScenePattern.learn(functions, images, seen - blurred, noise, weight), images))
    some = stacked(images)
    pattern = ScenePattern.learn(functions, some, part.seen - part.guide, noise, part.weight)
    of_part = best(part, (pattern, some))
    if of_part is None and not first:
        return None
    told = None if of_part is None or of_part.candidates is None else of_part.candidates.direction
    return best(whole, (pattern, images), told, keep=told is not None)


def _loss(relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Mean squared residual in units of each band's noise, weighted as the relation does."""
    left = ((msi - relation.offset) / relation.gain - relation.seen)[:, valid] ** 2
    noise = _noise(relation, valid)
    weight = 1.0 / (1.0 + relation.distance[valid] / _WEAK_DISTANCE) ** 2
    return float(((left / noise[:, None]).mean(axis=0) * weight).sum() / weight.sum())


def _noise(relation: GuideRelation, valid: NDArray[np.bool_]) -> FloatArray:
    """Variance that differences of both images are measured in, shape (msi band,)."""
    return np.asarray((relation.synthesis**2).sum(axis=1) + 1e-4 * relation.seen[:, valid].var(axis=1))


def _keep_field(relation: GuideRelation, first: GuideRelation) -> GuideRelation:
    return replace(relation, gain=first.gain, offset=first.offset)
