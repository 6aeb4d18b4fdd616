"""Local corrections of a whole guide, one after another: what a season, sun angles and sensors do to it.

Each is found (:mod:`hsfuse.fusion.change.choice`) and applied, and both images are related anew; in the end a network
refines what the first one was chosen from (:mod:`hsfuse.fusion.change.season`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.candidates import Candidates
from hsfuse.fusion.change.choice import LEAST_BLIND_GAIN, LEAST_GAIN, CorrectionData, best_correction
from hsfuse.fusion.change.local import Correction
from hsfuse.fusion.change.pattern import ColourFunctions, ScenePattern
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.season import UNKNOWN, SeasonData
from hsfuse.fusion.scene_model.pair import CoarsePair, GuideRelation
from hsfuse.fusion.scene_model.relation import relate, some_blocks
from hsfuse.spilled import SpilledImages

FloatArray = NDArray[np.float64]
Refine = Callable[[SeasonData, int], NDArray[np.float32]]
"""See :func:`~hsfuse.fusion.change.season.refined_season`."""

_CORRECTIONS = 3
_LOCAL_DISTANCE = 200.0
"""Squared distance of both images at which a pixel counts a quarter in what a correction is fitted on: a season on
little ground of a scene stands far off, and it is that ground which must be corrected."""
_JUDGED_DISTANCE, _NO_DISTANCE, NO_WEIGHT = 50.0, 400.0, 1e-5
"""Whether a correction is made is judged by ground that is trusted more. On pairs of nine tuning cubes with parcels,
clouds and shadows 0.93 of the error and more are left, with seasons 0.72 and less."""
_FURTHER_GAIN = 0.9
"""Share of the error that must not be exceeded by a correction after another, or after a field: what both images differ
in is known by then."""


@dataclass(frozen=True)
class CorrectedGuide:
    """A guide after some corrections, and its relation to the HSI.

    Attributes
    ----------
    guide, blurred
        At both resolutions, shape (msi band, row, col).
    relation
        Of the guide and the HSI.
    count
        How often it was corrected.
    error
        Of the last correction, as in :class:`~hsfuse.fusion.change.local.Correction`; None without one.
    """

    guide: NDArray[np.float32]
    blurred: FloatArray
    relation: GuideRelation
    count: int = 0
    error: FloatArray | None = None


@dataclass(frozen=True)
class _Before:
    """A guide before its first local correction, at both resolutions, and the candidates for that."""

    guide: SpilledImages
    low: SpilledImages
    candidates: Candidates


class LocalCorrections:
    """Local corrections of a guide one after another, as long as it gains, and what refines it in the end.

    Parameters
    ----------
    pair, response, refine, threads
        As of :func:`gather_evidence`.
    of_field
        Whether the guide was corrected by a field before.
    displaced
        Whether images are displaced locally.
    overwrite
        Whether the guide may be overwritten.
    """

    def __init__(
        self, pair: CoarsePair, response: Response, refine: Refine, *, of_field: bool, displaced: bool, threads: int,
        overwrite: bool,
    ) -> None:  # fmt: skip
        self._pair, self._response, self._refine, self._threads = pair, response, refine, threads
        self._of_field, self._displaced, self._overwrite = of_field, displaced, overwrite

    def next(self, state: CorrectedGuide) -> Correction | None:
        """Find a correction of a guide; None where it does not gain enough."""
        return _local_correction(
            self._pair, state, self._response, first=state.count == 0, further=self._of_field or state.count > 0,
            displaced=self._displaced,
        )  # fmt: skip

    def applied(self, held: list[tuple[CorrectedGuide, Correction]]) -> CorrectedGuide:
        """Return a guide with its first correction and further ones.

        Parameters
        ----------
        held
            Only the guide as it is and the correction, which are taken out. While a relation is made, which takes as
            much memory as all that is known of a scene, nobody must hold images that it does not need.
        """
        before = self._before(*held[0])
        while True:
            state = self._corrected(held)
            more = self.next(state) if state.count < _CORRECTIONS else None
            if more is None:
                return state if before is None else self._refined(state, before)
            held.append((state, more))
            del state, more

    def _before(self, state: CorrectedGuide, first: Correction) -> _Before | None:
        """Spill what a refinement asks for as it was; None where there is none."""
        if first.candidates is None or self._pair.predicted is None or self._displaced:
            return None
        guide = SpilledImages.copy_of(state.guide) if self._overwrite else SpilledImages(state.guide)
        # Single precision is what it was blurred in.
        return _Before(guide, SpilledImages(state.blurred.astype(np.float32)), first.candidates)

    def _corrected(self, held: list[tuple[CorrectedGuide, Correction]]) -> CorrectedGuide:
        """Take out a guide and a correction, apply it, and relate both images anew."""
        state, more = held.pop()
        guide, count, gain, offset = state.guide, state.count + 1, state.relation.gain, state.relation.offset
        del state
        guide, error = more.apply(guide, self._response, overwrite=self._overwrite or count > 1), more.error
        del more
        blurred = self._response.down(guide)
        relation = relate(self._pair, blurred, threads=self._threads)
        return CorrectedGuide(guide, blurred, replace(relation, gain=gain, offset=offset), count, error)

    def _refined(self, state: CorrectedGuide, before: _Before) -> CorrectedGuide:
        relation, valid = state.relation, self._pair.valid
        low = before.low.read(before.low.whole).astype(np.float64)
        distance = np.where(valid, relation.distance, UNKNOWN)
        data = SeasonData(
            before.guide, state.guide, low, state.blurred, relation.seen, distance,
            difference_noise(relation, valid), before.candidates, self._response,
        )  # fmt: skip
        guide = self._refine(data, self._threads)
        if self._overwrite and guide is not state.guide:
            # Whoever gave the guide may still hold it.
            state.guide[...] = guide
            guide = state.guide
        # Related anew, a few pixels would stand out as foreign ground only because all others agree better.
        return replace(state, guide=guide, blurred=self._response.down(guide))


def _local_correction(
    pair: CoarsePair, state: CorrectedGuide, response: Response, *, first: bool, further: bool, displaced: bool
) -> Correction | None:  # fmt: skip
    """Find a further correction; None where it does not gain enough."""
    guide, blurred, relation, seen = state.guide, state.blurred, state.relation, state.relation.seen
    noise = difference_noise(relation, pair.valid)
    judged = np.where(
        relation.distance < _NO_DISTANCE, 1.0 / (1.0 + relation.distance / _JUDGED_DISTANCE) ** 2, NO_WEIGHT
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


def difference_noise(relation: GuideRelation, valid: NDArray[np.bool_]) -> FloatArray:
    """Variance that differences of both images are measured in, shape (msi band,)."""
    return np.asarray((relation.synthesis**2).sum(axis=1) + 1e-4 * relation.seen[:, valid].var(axis=1))
