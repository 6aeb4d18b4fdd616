"""Interpolation where a scene is too small, or has too few bands, for a method to be better."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import lowpass_decimate_array
from hsfuse.errors import HsfuseError, OverlapError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.inference import pipeline
from hsfuse.inference.explained_detail import explained_detail_db
from hsfuse.inference.few_bands import FEW_BANDS
from hsfuse.inference.scene import FusionScene
from hsfuse.log import as_details, get_logger

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
INTERPOLATION = "bicubic"
"""Method that stands in where a scene is too small or has too few bands for the one that was asked for, or where its
guide shows other ground."""
_VERY_FEW_BANDS, _CLEARLY = 5, 0.5
"""Share of the interpolation's error that a method must stay below at reduced resolution with so many: on simulated
pairs of 2 to 5 bands, all that did were better at full resolution too; of those that halved no error, some were
worse."""
_BETTER, _EXPLAINED_BY_FEW_DB = 0.8, 3.0
"""The same of 6 and 7 bands, and how far the guide must explain their fine detail, which most small scenes can be told
by alone: of 101 drawn pairs of the tuning sites two are left below interpolation (by 0.8 dB at worst) instead of six
(2.4 dB), and 0.4 of 7.5 dB are lost in the mean."""
_LEAST_SIDE_PX = 2
SMALL_PIXELS = 100
"""Valid HSI pixels below which a method's gain is not taken for granted either: they are fewer than most images have
bands, and none are left at reduced resolution."""
_VERY_SMALL_PIXELS = 40
_EXPLAINED_DB, _WELL_EXPLAINED_DB = 2.5, 5.0
"""How far the guide must explain their fine detail, and that of scenes which are smaller still: of 774 drawn pairs of 6
to 9 pixels a side of the tuning sites one is left below interpolation (by 0.03 dB) instead of 24 (5.6 dB at worst), and
0.6 of 8.3 dB are lost in the mean."""


def dependable(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    scene: FusionScene,
    context: FusionContext,
) -> FusionMethod:
    """Return a method that learned from the scene: ``make``'s, or the interpolation where that is no worse.

    What is chosen instead is logged.

    Parameters
    ----------
    make, interpolate
        Make a method that is not fitted.
    scene, context
        The scene and facts about it.

    Raises
    ------
    OverlapError
        No pixel is valid in both images.
    """
    return pipeline.fit(partial(_dependable, make, interpolate), scene, context)


def _dependable(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    context: FusionContext,
    strips: Sequence[LowResolutionStrip],
) -> FusionMethod:
    why = doubt_of(make, interpolate, context, strips)
    method = make()
    if not why:
        try:
            method.fit(context, strips)
            return method
        except OverlapError as error:
            why = error.message.rstrip(".")
    spare = interpolate()
    spare.fit(context, strips)
    _log.warning("%s", interpolated_because(method.spec.name, why))
    return spare


def interpolated_because(method: str, why: str) -> str:
    """Return a sentence that tells of interpolation in place of a method; ``why`` is the end of a sentence."""
    return f"The HSI is interpolated, not fused by '{method}': {why}."


def doubt_of(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    context: FusionContext,
    strips: Sequence[LowResolutionStrip],
) -> str:
    """Why the HSI should be interpolated instead, the end of a sentence; empty where the method is to be believed.

    With few bands both are tried at reduced resolution: the HSI is degraded once more and fused with the MSI at
    the HSI's own pixel size (Wald's protocol). Where that cannot be tried on very few, interpolation is the safe
    choice. A scene of few pixels has none left at reduced resolution: there the guide must explain the HSI's fine
    detail, each pixel by what the others tell.

    Parameters
    ----------
    make, interpolate
        Make a method that is not fitted.
    context, strips
        What it would be fitted with.
    """
    if make().spec.name == interpolate().spec.name or not strips:
        return ""
    bands = len(context.centre_nm)
    if bands == 1:
        return "one band does not tell how the two images go together"
    if bands <= FEW_BANDS:
        why = _doubt_of_few_bands(make, interpolate, context, strips)
        if why:
            return f"with {bands} bands {why}"
    pixels = sum(int(strip.valid.sum()) for strip in strips)
    if pixels < SMALL_PIXELS:
        found = explained_detail_db(strips)
        if found is not None and found < (_WELL_EXPLAINED_DB if pixels < _VERY_SMALL_PIXELS else _EXPLAINED_DB):
            return f"in a scene of {pixels} HSI pixels the multispectral image explains too little of their detail"
    return ""


def _doubt_of_few_bands(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    context: FusionContext,
    strips: Sequence[LowResolutionStrip],
) -> str:
    tried, plain = (_reduced_error(each(), context, strips) for each in (make, interpolate))
    known = tried is not None and plain is not None
    strict = len(context.centre_nm) <= _VERY_FEW_BANDS
    if strict and not known:
        return "it cannot be tried on so small a scene"
    if tried is not None and plain is not None and tried > (_CLEARLY if strict else _BETTER) * plain:
        return "it is not clearly better at reduced resolution"
    found = None if strict else explained_detail_db(strips)
    if found is not None and found < _EXPLAINED_BY_FEW_DB:
        return "the multispectral image explains too little of their detail"
    return ""


def _reduced_error(method: FusionMethod, context: FusionContext, strips: Sequence[LowResolutionStrip]) -> float | None:
    """Root mean square error at reduced resolution, reflectance; None where the scene is too small."""
    import torch

    ratio, psf = context.ratio, context.psf
    squares, count, fitted = 0.0, 0, False
    reduced: list[tuple[LowResolutionStrip, FloatCube, NDArray[np.bool_], FloatCube]] = []
    for strip in strips:
        rows, cols = (size // ratio * ratio for size in strip.valid.shape)
        if min(rows, cols) < _LEAST_SIDE_PX * ratio:
            continue
        hsi, msi, valid = strip.hsi[:, :rows, :cols], strip.msi[:, :rows, :cols], strip.valid[:rows, :cols]
        coarse = lowpass_decimate_array(np.ascontiguousarray(hsi), ratio, psf)
        guide = lowpass_decimate_array(np.ascontiguousarray(msi), ratio, psf)
        blocks = valid.reshape(rows // ratio, ratio, cols // ratio, ratio)
        seen = np.asarray(np.all(blocks, axis=(1, 3)), dtype=np.bool_)
        fine = np.where(valid, msi, np.float32(np.nan))
        reduced.append((LowResolutionStrip(coarse, guide, seen, fine), hsi, valid, np.ascontiguousarray(msi)))
    try:
        if reduced:
            # What the trial is told of itself would be taken for what is said of the result.
            with as_details(logging.WARNING):
                method.fit(context, [entry[0] for entry in reduced])
            fitted = True
    except HsfuseError:
        return None
    if not fitted:
        return None
    for low, truth, valid, msi in reduced:
        with torch.inference_mode():
            fused = method.fuse(torch.from_numpy(low.hsi)[None], torch.from_numpy(msi)[None])[0].numpy()
        squares += float(((fused - truth)[:, valid].astype(np.float64) ** 2).sum())
        count += int(valid.sum()) * len(truth)
    return float(np.sqrt(squares / count)) if count else None
