"""How wrong a fusion method is on this scene: the covariance of its error from a reduced-resolution validation.

The scene is degraded once more by its ratio (Wald's protocol); the measured HSI is the truth there, the method fuses
the degraded pair, and the covariance of what it misses, less the truth's own noise, is the prior. The maximum a
posteriori step is applied to the same degraded pairs: only what gains there is used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import NO_OFFSET
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.map.degraded import DegradedWindow, degraded_strip, mirrored, repeats_for
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.log import get_logger
from hsfuse.parallel import side_by_side

if TYPE_CHECKING:
    import torch

_FLOOR = 0.05
"""Smallest eigenvalue of the prior, in units of the HSI's noise variance."""
_LEAST_PART = 0.1

_log = get_logger(__name__)


@dataclass(frozen=True)
class ErrorPrior:
    """What the validation found.

    Attributes
    ----------
    covariance
        Of the method's error in the model's components, shape (component, component).
    error
        Root mean square error of the method by band, shape (band,).
    windows
        Degraded windows it comes from.
    """

    covariance: FloatMatrix
    error: FloatMatrix
    windows: int


def fuse_windows(
    method: FusionMethod, windows: Sequence[DegradedWindow], context: FusionContext, model: SceneModel
) -> list[torch.Tensor] | None:
    """Fit a method to the degraded pairs and fuse them; None where they are too small for it.

    Returns
    -------
    list of torch.Tensor
        Shape (1, band, row, col), on the context's device.
    """
    import torch

    ratio, psf = model.ratio, model.psf
    context = replace(context, psf=psf, calibrate=False, offset_px=NO_OFFSET)
    repeats = repeats_for(sum(window.low[0].size for window in windows))
    threads = context.threads_here if method.spec.kind == "classical" else 1

    def strip_of(window: DegradedWindow) -> LowResolutionStrip:
        return degraded_strip(mirrored(window, repeats), ratio, psf)

    def fuse(window: DegradedWindow) -> torch.Tensor:
        wide = mirrored(window, repeats)
        low, guide = (torch.from_numpy(image)[None].to(context.device) for image in (wide.low, wide.guide))
        rows, cols = window.valid.shape
        return method.fuse(low, guide)[:, :, :rows, :cols].float().contiguous()

    try:
        method.fit(context, list(side_by_side(strip_of, windows, context.threads)))
        return list(side_by_side(fuse, windows, threads))
    except HsfuseError as error:
        _log.info("The method cannot be validated at reduced resolution on this scene: %s", error.message)
        return None


def error_prior(
    windows: Sequence[DegradedWindow], fused: Sequence[torch.Tensor], model: SceneModel, *, threads: int = 1
) -> ErrorPrior:
    """Covariance of the method's error: of what it misses, less the noise of the measured truth."""
    forward = model.space.forward
    rank = len(forward)

    def look(pair: tuple[DegradedWindow, torch.Tensor]) -> tuple[FloatMatrix, FloatMatrix]:
        miss = _missed(*pair)
        inside = forward @ miss
        return inside @ inside.T, (miss**2).sum(axis=1)

    scatter, square = np.zeros((rank, rank)), np.zeros(forward.shape[1])
    for of_components, of_bands in side_by_side(look, zip(windows, fused, strict=True), threads):
        scatter += of_components
        square += of_bands
    count = max(_counted(windows), 1)
    values, vectors = np.linalg.eigh(scatter / count - np.eye(rank))
    covariance = (vectors * np.maximum(values, _FLOOR)) @ vectors.T
    mean_square = square / count
    error = np.sqrt(np.maximum(mean_square - model.space.noise**2, _LEAST_PART * mean_square))
    return ErrorPrior(covariance, error, len(windows))


def squared_misses(window: DegradedWindow, result: torch.Tensor) -> FloatMatrix:
    """Sum over the pixels that count of the squares of what a result misses, shape (band,)."""
    return np.asarray((_missed(window, result) ** 2).sum(axis=1), np.float64)


def _missed(window: DegradedWindow, result: torch.Tensor) -> FloatMatrix:
    """What a result (1, band, row, col) misses of the pixels that count, shape (band, pixel)."""
    return np.asarray((window.truth - result[0].cpu().numpy())[:, window.counted], np.float64)


def _counted(windows: Sequence[DegradedWindow]) -> int:
    return sum(int(window.counted.sum()) for window in windows)


def validated_gain(
    windows: Sequence[DegradedWindow], before: Sequence[FloatMatrix], after: Sequence[FloatMatrix], model: SceneModel
) -> float:
    """Gain of one set of results over another at reduced resolution, dB, mean over the bands; noise taken off.

    Parameters
    ----------
    windows
        Where they were made.
    before, after
        :func:`squared_misses` of both in every window.
    model
        The pair.
    """
    count = _counted(windows)
    if count == 0:
        return 0.0
    sums = np.stack([np.sum(misses, axis=0) for misses in (before, after)])
    left = np.maximum(sums - model.space.noise**2 * count, _LEAST_PART * sums)
    return float(10.0 * np.log10(left[0] / np.maximum(left[1], 1e-30)).mean())


def fresh_copy(method: FusionMethod) -> FusionMethod:
    """Return an unfitted method like this unfitted one."""
    return copy.deepcopy(method)
