"""How sure the result of a scene will be, pixel by pixel: told in blocks, before anything is fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import windows
from hsfuse.fusion.change.blocks import blocks
from hsfuse.fusion.change.coarse_features import CoarseFeatures
from hsfuse.fusion.change.confidence import (
    DETAIL,
    ErrorFeatures,
    ErrorModel,
    SceneTraits,
    apply_change,
    apply_error,
    change_features,
    error_features,
)
from hsfuse.fusion.change.repair import RepairedGuide
from hsfuse.fusion.change.response import Response
from hsfuse.grid import Slice2D
from hsfuse.inference.scene_survey import Survey
from hsfuse.parallel import side_by_side, threads_for, together
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]
Result = TypeVar("Result")

_CONTEXT_PX = 5
"""Context of a block, HSI pixels: no filter reaches farther, even with two pixels to each."""


def confidence_features(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response
) -> Iterator[tuple[tuple[slice, slice], tuple[FloatCube, ErrorFeatures]]]:
    """Features of the change and of the error, block by block; none of blocks without a pixel that is seen.

    Yields
    ------
    tuple
        Fine pixels of the block, and the features of the change, shape (feature, row, col), and of the error there.
    """
    traits, coarse = _of_scene(survey, guide, pixels, response)
    return _in_blocks(
        survey, guide, pixels, response, 1, traits, coarse, lambda change, error: (change, error)
    )  # fmt: skip


def confidence_images(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response, model: ErrorModel | None, threads: int
) -> SpilledImages:
    """Probability of change and expected error, shape (2, row, col); zeros without a model."""
    told = SpilledImages.to_be_written((2, *guide.change.shape))
    if model is None:
        return told
    traits, coarse = _of_scene(survey, guide, pixels, response)
    # One image to interpolate instead of several: both are linear.
    coarse, model = coarse.combined(model)

    def applied(of_change: FloatCube, of_error: ErrorFeatures) -> tuple[FloatCube, FloatCube]:
        return apply_change(model, of_change), apply_error(model, of_error)

    for where, found in _in_blocks(survey, guide, pixels, response, threads, traits, coarse, applied):
        told.write(Slice2D.of(*where), np.stack(found))
    return told


def _of_scene(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response
) -> tuple[SceneTraits, CoarseFeatures]:  # fmt: skip
    traits, shown = together(
        lambda: SceneTraits.of(survey.pair, survey.traits, guide.evidence.relation.seen, survey.space),
        lambda: response.down(pixels),
        threads=threads_for(2),
    )
    return traits, CoarseFeatures.of(guide.evidence, traits, shown)


def _in_blocks(
    survey: Survey, guide: RepairedGuide, pixels: FloatCube, response: Response, threads: int, traits: SceneTraits,
    coarse: CoarseFeatures, use: Callable[[FloatCube, ErrorFeatures], Result],
) -> Iterator[tuple[tuple[slice, slice], Result]]:  # fmt: skip
    """Yield what is made of the features of every block."""
    power = guide.evidence.contradiction.power

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

    ratio, shape = response.ratio, survey.valid.shape
    seen = np.asarray(survey.seen.reshape(shape[0], ratio, shape[1], ratio).any(axis=(1, 3)), dtype=np.bool_)
    parts = (windows.holding(seen, core) for _, core in blocks(shape))
    yield from side_by_side(
        one, [(windows.grown(part, _CONTEXT_PX, shape), part) for part in parts if part is not None], threads
    )
