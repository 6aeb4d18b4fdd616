"""Interpolation where a scene is too small, or has too few bands, for a method to be better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import lowpass_decimate_array
from hsfuse.errors import HsfuseError, OverlapError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.inference import pipeline
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
INTERPOLATION = "bicubic"
"""Method that stands in where a scene is too small or has too few bands for the one that was asked for, or where its
guide shows other ground."""
FEW_BANDS = 5
"""With so few bands a method's gain is not taken for granted."""
_CLEARLY = 0.5
"""Share of the interpolation's error that a method must stay below there: on simulated pairs of 2 to 5 bands, all that
did were better at full resolution too; of those that halved no error, some were worse."""
_LEAST_SIDE_PX = 2


def dependable(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    scene: FusionScene,
    context: FusionContext,
) -> FusionMethod:
    """Return a method that learned from the scene: ``make``'s, or the interpolation where that is no worse.

    With few bands both are tried at reduced resolution first: the HSI is degraded once more and fused with the MSI at
    the HSI's own pixel size (Wald's protocol). Where that cannot be tried, interpolation is the safe choice. What is
    chosen instead is logged.

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
    method = make()
    why = ""
    if len(scene.bands) <= FEW_BANDS:
        why = _doubt(make, interpolate, scene, context)
    if not why:
        try:
            pipeline.fit(method.fit, scene, context)
            return method
        except OverlapError as error:
            why = error.message.rstrip(".")
    spare = interpolate()
    pipeline.fit(spare.fit, scene, context)  # raises where there is nothing to fuse at all
    _log.warning("The HSI is interpolated, not fused by '%s': %s.", method.spec.name, why)
    return spare


def _doubt(
    make: Callable[[], FusionMethod],
    interpolate: Callable[[], FusionMethod],
    scene: FusionScene,
    context: FusionContext,
) -> str:
    """Why a method should not be used; empty where it is better than interpolation at reduced resolution."""
    if make().spec.name == interpolate().spec.name:
        return ""
    if len(scene.bands) == 1:
        return "one band does not tell how the two images go together"
    counted = f"{len(scene.bands)} bands"
    errors = [_reduced_error(each(), scene, context) for each in (make, interpolate)]
    if errors[0] is None or errors[1] is None:
        return f"with {counted} it cannot be tried on so small a scene"
    if errors[0] > _CLEARLY * errors[1]:
        return f"with {counted} it is not clearly better at reduced resolution"
    return ""


def _reduced_error(method: FusionMethod, scene: FusionScene, context: FusionContext) -> float | None:
    """Root mean square error at reduced resolution, reflectance; None where the scene is too small."""
    import torch

    ratio = scene.ratio
    squares, count, fitted = 0.0, 0, False
    reduced: list[tuple[LowResolutionStrip, FloatCube, NDArray[np.bool_], FloatCube]] = []
    for strip in scene.low_resolution_strips():
        rows, cols = (size // ratio * ratio for size in strip.valid.shape)
        if min(rows, cols) < _LEAST_SIDE_PX * ratio:
            continue
        hsi, msi, valid = strip.hsi[:, :rows, :cols], strip.msi[:, :rows, :cols], strip.valid[:rows, :cols]
        coarse = lowpass_decimate_array(np.ascontiguousarray(hsi), ratio, scene.psf)
        guide = lowpass_decimate_array(np.ascontiguousarray(msi), ratio, scene.psf)
        blocks = valid.reshape(rows // ratio, ratio, cols // ratio, ratio)
        seen = np.asarray(np.all(blocks, axis=(1, 3)), dtype=np.bool_)
        fine = np.where(valid, msi, np.float32(np.nan))
        reduced.append((LowResolutionStrip(coarse, guide, seen, fine), hsi, valid, np.ascontiguousarray(msi)))
    try:
        if reduced:
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
