"""A scene with a repaired guide: what changed between both images is found once, before anything is fused.

The result is a scene again, whose guide is the repaired one, so every method profits, and what is known about each fine
pixel: its probability of change, the error to expect, and whether the guide had any part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.allocator import large_arrays_apart, release_freed_memory
from hsfuse.fusion.base import CHANGE_IMAGES, FusionContext
from hsfuse.fusion.change.confidence import ErrorModel
from hsfuse.fusion.change.repair import RepairedGuide, repair_guide
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.inference.confidence import confidence_images
from hsfuse.inference.few_bands import images_differ
from hsfuse.inference.guide_notes import guide_notes
from hsfuse.inference.partner_detail import show_partners
from hsfuse.inference.partners import Partnership, combine_partners
from hsfuse.inference.repaired_msi import RepairedMsi
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_survey import (
    Survey,
    align_survey,
    misfit_of_place,
    show_another_place,
    show_this_place,
    survey_scene,
)
from hsfuse.log import get_logger
from hsfuse.masks import expand
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_log = get_logger(__name__)
_PICTURE_PX = 450
"""Longer side of the report's pictures at most, HSI pixels."""
_EXCLUDED = 0.1
"""Change from which a pixel takes no part in what methods learn of both images together."""
_HSI_ONLY = 0.5
"""Change without detail of its own from which the guide is said to have no part in a pixel."""
_GROSS_DISTANCE = 1000.0
"""Squared distance, in units of what both images usually differ by, from which a candidate for change takes no part
either, whatever became of it, however few there are: HSI pixels that glint are no change of the guide."""
_SOME_CHANGE = 0.002
"""Share of changed ground below which methods learn from everything and find blur and shift themselves."""
_FINE_ERROR = 2.0
"""What a local correction leaves of the fine guide's variance over its leave-one-out errors at low resolution: 1 to 3.6
on nine tuning cubes with seasons."""
HELD_BYTES_PER_PIXEL = 5
"""What a repair holds in memory per fine pixel once it is made: masks."""
_PEAK_BYTES, _PEAK_BAND_BYTES = 38, 15
"""What it takes at its peak per fine pixel, and per pixel and band of the guide: measured with 4 and 10 bands. A season
is counted always: nobody knows before whether the guide must be corrected for one, and who runs out of memory has
nothing."""
_THREADS, _THREAD_BYTES = 2, 90_000_000
"""Threads that this was measured with, and what a block of a changed scene takes in each further one."""
_PARTNER_BYTES, _PARTNER_BAND_BYTES = 4, 1
"""The same, of what joining and combining partners adds, however many there are: one is read at a time."""


@dataclass(frozen=True)
class SceneRepair:
    """What was found about a pair, and the scene to fuse.

    Attributes
    ----------
    scene
        The scene with the repaired guide.
    facts
        What was found and repaired, plain values for the report.
    share
        Share of the valid ground that changed.
    trusted
        Whether enough of the ground is unchanged for the guide to be used.
    confidence
        :attr:`change` and :attr:`expected_error`, which nobody looks at before the scene is fused.
    hsi_only
        Pixels where the guide has no part in the result, shape (row, col) on the fine grid.
    valid
        Pixels measured in both images with all that the HSI's blur looks at, the same shape.
    seen
        Pixels measured in both images, the same shape.
    coarse_brightness
        Mean square of the HSI over the bands, shape (row, col) on the HSI's grid.
    error_bound
        90 % of the errors should stay below so many times the expected one.
    alignment
        Blur and shift that were found without the changed ground; None where these are as told.
    response
        The HSI's response that all of it was found with.
    pictures
        What the HSI and the guide (its colours corrected) show of the guide's bands, NaN where not measured, shape
        (image, msi band, row, col) on the HSI's grid, thinned out.
    notes
        Sentences about a guide that contradicts its description.
    """

    scene: FusionScene
    facts: dict[str, Any]
    share: float
    trusted: bool
    confidence: SpilledImages
    hsi_only: BoolArray
    valid: BoolArray
    seen: BoolArray
    coarse_brightness: NDArray[np.floating]
    error_bound: float
    alignment: Calibration | None
    response: Response
    pictures: FloatCube
    notes: tuple[str, ...] = ()

    @property
    def change(self) -> FloatCube:
        """Probability that the guide shows other ground, shape (row, col) on the fine grid; read anew each time."""
        return self.confidence.image(0)

    @property
    def expected_error(self) -> FloatCube:
        """Expected root mean square error over the bands, reflectance, as :attr:`change`."""
        return self.confidence.image(1)

    @property
    def brightness(self) -> FloatCube:
        """Root mean square of the HSI over the bands, reflectance, shape (row, col) on the fine grid."""
        square: FloatCube = self.response.up_single(self.coarse_brightness[None])[0]
        # Row by row: in double precision the whole image would be large.
        for row in square:
            row[:] = np.sqrt(np.maximum(row.astype(np.float64), 0.0))
        return square

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        seen = self.valid
        return self.facts | {
            "hsi_only_share": round(float(self.hsi_only[seen].mean()), 4) if seen.any() else None,
            "expected_rmse_median": round(float(np.median(self.expected_error[seen])), 5) if seen.any() else None,
            "error_bound_90": round(self.error_bound, 3),
            "alignment": None if self.alignment is None else self.alignment.to_json(),
        }


def bytes_to_repair(scene: FusionScene, threads: int = 1) -> int:
    """Memory that :func:`repair_scene` takes at its peak with so many threads, bytes."""
    height, width = scene.fine_grid.shape
    bands = len(scene.msi.band_names)
    each = _PEAK_BYTES + _PEAK_BAND_BYTES * bands
    if scene.partners:
        each += _PARTNER_BYTES + _PARTNER_BAND_BYTES * bands
    return each * height * width + _THREAD_BYTES * max(threads - _THREADS, 0)


def repair_scene(scene: FusionScene, context: FusionContext) -> SceneRepair:
    """Find what differs between both images of a scene and repair its guide.

    Parameters
    ----------
    scene
        As the engine would fuse it.
    context
        Facts about it.

    Raises
    ------
    OverlapError
        No pixel is valid in both images.
    """
    # Images of the whole scene are of many sizes: what is freed of one step would not fit the next.
    with large_arrays_apart():
        survey = survey_scene(scene, context)
        release_freed_memory()
        found = _repaired(scene, context, survey, overwrite=True)
        # The repaired guide has taken its place.
        survey = replace(survey, msi=survey.msi[:, :0].copy())
        release_freed_memory()
        for note in found.notes:
            _log.warning("%s", note)
        if not found.guide.trusted:
            why = images_differ(len(scene.bands)).capitalize()
            _log.warning("%s: the hyperspectral image is interpolated without its guide.", why)
        repair = _told(scene, context, survey, found, ErrorModel.load())
    del survey, found
    release_freed_memory()
    return repair


def told_without_guide(repair: SceneRepair, scene: FusionScene, context: FusionContext) -> SceneRepair:
    """Return what a repair says of a result in which the guide has no part, whatever was found out about it.

    Parameters
    ----------
    repair
        What was found.
    scene, context
        As they were repaired.
    """
    scene = replace(scene, partners=())
    with large_arrays_apart():
        survey = survey_scene(scene, context)
        found = _repaired(scene, context, survey, overwrite=True)
        survey = replace(survey, msi=survey.msi[:, :0].copy())
        release_freed_memory()
        refused = found._replace(guide=replace(found.guide, elsewhere=True))
        alone = _told(scene, context, survey, refused, ErrorModel.load())
    del survey, found, refused
    release_freed_memory()
    told = np.stack([repair.change, alone.expected_error])
    return replace(
        repair, confidence=SpilledImages(told), hsi_only=np.ones_like(repair.hsi_only), error_bound=alone.error_bound
    )  # fmt: skip


def repair_surveyed(
    scene: FusionScene, context: FusionContext, survey: Survey, model: ErrorModel | None
) -> tuple[SceneRepair, RepairedGuide]:
    """:func:`repair_scene` of a scene that was read; also return what the repair found.

    Without a ``model`` probability and expected error are 0: what a model is fitted on needs none.
    """
    found = _repaired(scene, context, survey)
    return _told(scene, context, survey, found, model), found.guide


class _Found(NamedTuple):
    """What was found with the guide as it came; its noise where much changed."""

    guide: RepairedGuide
    alignment: Calibration | None
    response: Response
    noise: NDArray[np.float64] | None
    partnership: Partnership | None
    notes: tuple[str, ...]


def _repaired(scene: FusionScene, context: FusionContext, survey: Survey, *, overwrite: bool = False) -> _Found:
    """Find what changed, and repair the guide, in the place of the survey's if that may be overwritten."""
    alignment = align_survey(survey, context) if context.calibrate else None
    psf, offset = (context.psf, context.offset_px) if alignment is None else (alignment.psf, alignment.offset_px)
    response = Response(context.ratio, psf, offset)
    partnership = None
    if scene.partners:
        partnership = combine_partners(scene, context, survey)
        release_freed_memory()
    sample = GuideSample.take(survey.msi, ~survey.gaps & survey.seen)
    place = misfit_of_place(survey, context.ratio)  # before the guide may be overwritten
    guide = repair_guide(survey.pair, survey.msi, response, threads=context.threads, overwrite=overwrite)
    if place is not None:
        unexplained = guide.evidence.unexplained
        guide = replace(guide, here=show_this_place(place), elsewhere=show_another_place(place, unexplained))
    if partnership is not None and guide.trusted:
        seen = int(np.count_nonzero(~survey.gaps & survey.seen))
        guide, partnership = show_partners(guide, survey.msi, response, partnership, seen)
    notes = guide_notes(survey, guide.evidence.blurred)
    noise = None
    if guide.trusted and _is_left_out(guide):
        # What is left to learn from may be too little to tell the noise, which change has nothing to do with.
        noise = guide_noise([sample])
    return _Found(guide, alignment, response, noise, partnership, notes)


def _told(
    scene: FusionScene, context: FusionContext, survey: Survey, found: _Found, model: ErrorModel | None
) -> SceneRepair:
    """Tell how sure the result will be; the guide as it came is not looked at."""
    guide, alignment, response, noise, partnership, notes = found
    pixels = guide.msi if guide.trusted else response.up(guide.evidence.relation.seen).astype(np.float32)
    if not guide.trusted:
        # All of the detail is replaced, whatever the repair made of it.
        shape = guide.change.shape
        everywhere, nowhere = (np.broadcast_to(np.float32(value), shape) for value in (1.0, 0.0))
        guide = replace(guide, change=everywhere, own_detail=nowhere, share=1.0)
    confidence = confidence_images(survey, guide, pixels, response, model, context.threads)
    if not guide.trusted:
        error = confidence.image(1)
        confidence = SpilledImages(np.stack([np.ones_like(error), error]))
        del error
    fine = expand(survey.valid, scene.ratio)
    hsi_only = guide.change * (1.0 - guide.own_detail) > _HSI_ONLY
    pixels[:, survey.gaps] = np.nan
    repaired = replace(scene, msi=RepairedMsi(scene.msi, scene.msi_block, pixels))
    if guide.trusted and partnership is not None:
        repaired = replace(repaired, combined_noise=partnership.noise)
    if guide.trusted and guide.evidence.corrections > 0:
        repaired = replace(repaired, guide_error=_FINE_ERROR * guide.evidence.correction_error)
    if guide.trusted and _is_left_out(guide):
        images = np.empty((CHANGE_IMAGES, *guide.change.shape), np.float32)
        images[0] = guide.change
        np.multiply(guide.change, guide.own_detail, out=images[1])
        if alignment is not None:
            repaired = replace(repaired, psf=alignment.psf, offset_px=alignment.offset_px)
        changed = guide.change > _EXCLUDED
        changed |= expand(_gross_outliers(guide), scene.ratio)
        repaired = replace(repaired, changed=changed, guide_noise=noise, change=SpilledImages(images))
        del images
    bound = 1.0 if model is None else model.bound(guide.evidence.corrections)
    facts = guide.to_json()
    if partnership is not None:
        facts["partners"] = partnership.to_json()
    return SceneRepair(
        repaired, facts, guide.share, guide.trusted, confidence, hsi_only, fine,
        ~survey.gaps & survey.seen, survey.traits.brightness, bound, alignment, response,
        _pictures(guide, survey), notes,
    )  # fmt: skip


def _is_left_out(guide: RepairedGuide) -> bool:
    """Whether methods learn from a part of the scene only."""
    return guide.share > _SOME_CHANGE or bool(_gross_outliers(guide).any())


def _gross_outliers(guide: RepairedGuide) -> BoolArray:
    """HSI pixels that contradict the guide beyond all measure, shape (row, col)."""
    evidence = guide.evidence
    return np.asarray(evidence.contradiction.candidates & (evidence.relation.distance > _GROSS_DISTANCE), np.bool_)


def _pictures(guide: RepairedGuide, survey: Survey) -> FloatCube:
    measured = survey.valid if survey.pair.rim is None else survey.valid | survey.pair.rim
    step = max(-(-max(measured.shape) // _PICTURE_PX), 1)
    both = np.stack([guide.evidence.relation.seen[:, ::step, ::step], guide.evidence.blurred[:, ::step, ::step]])
    return np.where(measured[::step, ::step], both, np.nan).astype(np.float32)
