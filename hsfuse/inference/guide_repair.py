"""A scene with a repaired guide: what changed between both images is found once, before anything is fused.

The scene is read once in strips. What is kept is small: a few images on the HSI's grid and the guide itself. The result
is a scene again, whose guide is the repaired one, so every method profits, and what is known about each fine pixel: its
probability of change, the error to expect, and whether the guide had any part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.allocator import large_arrays_apart, release_freed_memory
from hsfuse.degrade import windows
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.change.confidence import (
    DETAIL,
    CoarseFeatures,
    CoarseTraits,
    ErrorFeatures,
    ErrorModel,
    SceneTraits,
    apply_change,
    apply_error,
    change_features,
    error_features,
)
from hsfuse.fusion.change.repair import RepairedGuide, blocks, repair_guide
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import Subspace, gather, signal_subspace
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.scene_model.alignment import robust_alignment
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.grid import Slice2D
from hsfuse.inference.repaired_msi import RepairedMsi
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.spilled import SpilledImages
from hsfuse.log import get_logger
from hsfuse.masks import expand
from hsfuse.parallel import one_ahead, side_by_side

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Result = TypeVar("Result")

_log = get_logger(__name__)
_STRIP_PX, _PICTURE_PX = 64, 450
_ALIGN_PX = 160
"""Side of the window that blur and shift are searched in, HSI pixels."""
_EXCLUDED = 0.1
"""Change from which a pixel takes no part in what methods learn."""
_HSI_ONLY = 0.5
_SOME_CHANGE = 0.002
"""Share of changed ground below which methods learn from everything and find blur and shift themselves."""
_FINE_ERROR = 2.0
"""What a local correction leaves of the fine guide's variance over its leave-one-out errors at low resolution: 1 to 3.6
on nine tuning cubes with seasons."""
MAX_RANK = 32
HELD_BYTES_PER_PIXEL = 5
"""What a repair holds in memory per fine pixel once it is made: masks."""
_CONFIDENCE_PX = 5
"""Context of a block whose confidence is told, HSI pixels: no filter reaches farther, even with two pixels to each."""


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
        square = self.response.up(self.coarse_brightness[None])[0]
        return np.asarray(np.sqrt(np.maximum(square, 0.0)), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        seen = self.valid
        return self.facts | {
            "hsi_only_share": round(float(self.hsi_only[seen].mean()), 4) if seen.any() else None,
            "expected_rmse_median": round(float(np.median(self.expected_error[seen])), 5) if seen.any() else None,
            "error_bound_90": round(self.error_bound, 3),
            "alignment": None if self.alignment is None else self.alignment.to_json(),
        }


@dataclass(frozen=True)
class Survey:
    """The whole scene as it was read once.

    Attributes
    ----------
    pair, traits
        At low resolution.
    msi
        The guide without gaps, shape (msi band, row, col) on the fine grid.
    gaps
        Where it has gaps, shape (row, col).
    valid
        HSI pixels that are measured in both images with all that their blur looks at, shape (row, col).
    space
        Signal subspace of the HSI.
    seen
        Fine pixels that may carry a result, shape (row, col).
    """

    pair: CoarsePair
    traits: CoarseTraits
    msi: FloatCube
    gaps: BoolArray
    valid: BoolArray
    space: Subspace
    seen: BoolArray


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
        found = _repaired(context, survey, overwrite=True)
        # The repaired guide has taken its place.
        survey = replace(survey, msi=survey.msi[:, :0].copy())
        release_freed_memory()
        repair = _told(scene, context, survey, found, ErrorModel.load())
    del survey, found
    release_freed_memory()
    return repair


def repair_surveyed(
    scene: FusionScene, context: FusionContext, survey: Survey, model: ErrorModel | None
) -> tuple[SceneRepair, RepairedGuide]:
    """:func:`repair_scene` of a scene that was read; also return what the repair found.

    Without a ``model`` probability and expected error are 0: what a model is fitted on needs none.
    """
    found = _repaired(context, survey)
    return _told(scene, context, survey, found, model), found.guide


class _Found(NamedTuple):
    """What was found with the guide as it came; its noise where much changed."""

    guide: RepairedGuide
    alignment: Calibration | None
    response: Response
    noise: NDArray[np.float64] | None


def _repaired(context: FusionContext, survey: Survey, *, overwrite: bool = False) -> _Found:
    """Find what changed, and repair the guide, in the place of the survey's if that may be overwritten."""
    alignment = align_survey(survey, context) if context.calibrate else None
    psf, offset = (context.psf, context.offset_px) if alignment is None else (alignment.psf, alignment.offset_px)
    response = Response(context.ratio, psf, offset)
    sample = GuideSample.take(survey.msi, ~survey.gaps & survey.seen)
    guide = repair_guide(survey.pair, survey.msi, response, threads=context.threads, overwrite=overwrite)
    noise = None
    if guide.trusted and guide.share > _SOME_CHANGE:
        # What is left to learn from may be too little to tell the noise, which change has nothing to do with.
        noise = guide_noise([sample])
    return _Found(guide, alignment, response, noise)


def _told(
    scene: FusionScene, context: FusionContext, survey: Survey, found: _Found, model: ErrorModel | None
) -> SceneRepair:
    """Tell how sure the result will be; the guide as it came is not looked at."""
    guide, alignment, response, noise = found
    pixels = guide.msi if guide.trusted else response.up(guide.evidence.relation.seen).astype(np.float32)
    if not guide.trusted:
        _log.warning("The images differ on most of the ground: the result follows the hyperspectral image alone.")
    told = np.zeros((2, *pixels.shape[1:]), np.float32)
    if model is not None:
        told = _confidence(survey, guide, pixels, response, model, context.threads)
    if not guide.trusted:
        told[0] = 1.0
    confidence = SpilledImages(told)
    del told
    fine = expand(survey.valid, scene.ratio)
    hsi_only = guide.change * (1.0 - guide.own_detail) > _HSI_ONLY
    pixels[:, survey.gaps] = np.nan
    repaired = replace(scene, msi=RepairedMsi(scene.msi, scene.msi_block, pixels))
    if guide.trusted and guide.evidence.corrections > 0:
        repaired = replace(repaired, guide_error=_FINE_ERROR * guide.evidence.correction_error)
    if guide.trusted and guide.share > _SOME_CHANGE:
        repaired = replace(repaired, changed=guide.change > _EXCLUDED, guide_noise=noise)
        if alignment is not None:
            repaired = replace(repaired, psf=alignment.psf, offset_px=alignment.offset_px)
    if not guide.trusted:
        hsi_only = np.ones_like(hsi_only)
    bound = 1.0 if model is None else model.bound(guide.evidence.corrections)
    return SceneRepair(
        repaired, guide.to_json(), guide.share, guide.trusted, confidence, hsi_only, fine,
        ~survey.gaps & survey.seen, survey.traits.brightness, bound, alignment, response,
        _pictures(guide, survey.valid),
    )  # fmt: skip


def _pictures(guide: RepairedGuide, valid: BoolArray) -> FloatCube:
    step = max(-(-max(valid.shape) // _PICTURE_PX), 1)
    both = np.stack([guide.evidence.relation.seen[:, ::step, ::step], guide.evidence.blurred[:, ::step, ::step]])
    return np.where(valid[::step, ::step], both, np.nan).astype(np.float32)


def survey_scene(scene: FusionScene, context: FusionContext) -> Survey:
    """Read a scene once, strip by strip."""
    statistics = gather(scene.low_resolution_strips())
    space = signal_subspace(statistics, max_rank=MAX_RANK)
    forward, mean = space.forward.astype(np.float32), space.mean.astype(np.float32)[:, None, None]
    height, width, ratio = *scene.grid.shape, scene.ratio
    components = np.zeros((space.rank, height, width), np.float32)
    srf = None if context.srf is None else context.srf.astype(np.float32)
    bands = len(scene.msi.band_names)
    predicted = None if srf is None else np.zeros((bands, height, width), np.float32)
    rough, bright = np.zeros((2, height, width), np.float32)
    msi = np.empty((bands, height * ratio, width * ratio), np.float32)
    gaps, seen = np.ones(msi.shape[1:], bool), np.zeros(msi.shape[1:], bool)
    valid = np.zeros((height, width), bool)
    square, count = 0.0, 0
    strips = [Slice2D(top, min(top + _STRIP_PX, height), 0, width) for top in range(0, height, _STRIP_PX)]
    for raw in one_ahead(scene.read_raw, strips):
        rows = raw.rows
        fine = rows.scaled(ratio).slices
        gaps[fine] = np.isnan(raw.msi).any(axis=0)
        strip = scene.complete(raw)
        part = strip.valid.reshape(rows.shape[0], ratio, width, ratio).all(axis=(1, 3))
        centred = strip.hsi - mean
        components[:, rows.slices[0]] = np.tensordot(forward, centred, axes=1)
        if predicted is not None and srf is not None:
            predicted[:, rows.slices[0]] = np.tensordot(srf, strip.hsi, axes=1)
        traits = CoarseTraits.of(strip.hsi)
        rough[rows.slices], bright[rows.slices] = traits.roughness, traits.brightness
        msi[:, *fine], seen[fine] = strip.msi, strip.valid
        valid[rows.slices] = part
        # In double precision from the sum over the bands on.
        energy = np.einsum("brc,brc->rc", centred, centred)[part].astype(np.float64)
        square, count = square + float(energy.sum()), count + energy.size * len(forward[0])
    level = square / max(count, 1) * (space.forward @ space.forward.T)
    # The blur of a pixel beside a gap looks at what was filled in there.
    measured = valid
    valid = np.asarray(binary_erosion(valid, np.ones((3, 3), bool), border_value=1), dtype=np.bool_)
    return Survey(
        CoarsePair(components, predicted, level, valid, measured & ~valid),
        CoarseTraits(rough, bright),
        msi,
        gaps,
        valid,
        space,
        seen,
    )


def align_survey(survey: Survey, context: FusionContext) -> Calibration | None:
    """Search blur and shift in the window with the most valid pixels."""
    valid = survey.pair.valid
    height, width = valid.shape
    corners = [(row, col) for row in _starts(height) for col in _starts(width)]

    def window(corner: tuple[int, int]) -> tuple[slice, slice]:
        return slice(corner[0], corner[0] + _ALIGN_PX), slice(corner[1], corner[1] + _ALIGN_PX)

    where = window(max(corners, key=lambda corner: int(valid[window(corner)].sum())))
    predicted = survey.pair.predicted
    part = CoarsePair(
        survey.pair.components[:, *where], None if predicted is None else predicted[:, *where], survey.pair.level,
        valid[where],
    )  # fmt: skip
    return robust_alignment(part, survey.msi[:, *windows.finer(where, context.ratio)], context.ratio, context.psf)


def _starts(size: int) -> list[int]:
    return sorted({max(size - _ALIGN_PX, 0), *range(0, max(size - _ALIGN_PX, 1), _ALIGN_PX)})


def confidence_features(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response
) -> Iterator[tuple[tuple[slice, slice], tuple[FloatCube, ErrorFeatures]]]:
    """Features of the change and of the error, block by block; none of blocks without a pixel that is seen.

    Yields
    ------
    tuple
        Fine pixels of the block, and the features of the change, shape (feature, row, col), and of the error there.
    """
    return _in_blocks(survey, guide, pixels, response, 1, lambda change, error: (change, error))


def _confidence(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response, model: ErrorModel, threads: int
) -> FloatCube:
    """Probability of change and expected error, shape (2, row, col)."""
    told = np.zeros((2, *pixels.shape[1:]), np.float32)

    def applied(of_change: FloatCube, of_error: ErrorFeatures) -> tuple[FloatCube, FloatCube]:
        return apply_change(model, of_change), apply_error(model, of_error)

    for where, found in _in_blocks(survey, guide, pixels, response, threads, applied):
        told[:, *where] = found
    return told


def _in_blocks(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response, threads: int,
    use: Callable[[FloatCube, ErrorFeatures], Result],
) -> Iterator[tuple[tuple[slice, slice], Result]]:  # fmt: skip
    """Yield what is made of the features of every block."""
    traits = SceneTraits.of(survey.pair, survey.traits, guide.evidence.relation.seen, survey.space)
    coarse, power = CoarseFeatures.of(guide.evidence, traits), guide.evidence.contradiction.power

    def one(place: tuple[tuple[slice, slice], tuple[slice, slice]]) -> tuple[tuple[slice, slice], Result]:
        read, core = windows.finer(place[0], response.ratio), windows.finer(place[1], response.ratio)
        inside = windows.inside(core, read)
        seen, of_change, of_error = coarse.block(place[0], response)
        error = error_features(
            traits, traits.estimate.block(place[0], response), seen, of_error, power, pixels[:, *read],
            guide.change[read], guide.own_detail[read],
        )  # fmt: skip
        change = change_features(of_change, guide.foreign[read], error.base[DETAIL])
        return core, use(change[:, *inside], error.cut(inside))

    places = [
        place for place in blocks(survey.valid.shape, _CONFIDENCE_PX)
        if survey.seen[windows.finer(place[1], response.ratio)].any()
    ]  # fmt: skip
    yield from side_by_side(one, places, threads)
