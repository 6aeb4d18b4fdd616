"""How wrong a fusion method is on this scene: the covariance of its error from a reduced-resolution validation.

The scene is degraded once more by its ratio (Wald's protocol); the measured HSI is the truth there, the method fuses
the degraded pair, and the covariance of what it misses, less the truth's own noise, is the prior. The maximum a
posteriori step is applied to the same degraded pairs: only what gains there is used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from hsfuse.degrade import NO_OFFSET, Psf, lowpass_decimate_array, psf_kernel
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

WINDOW_PX = 96
MAX_WINDOWS = 12
_MIN_WINDOW_PX = 9
_MIN_VALID = 0.6
_RIM = 2
"""Degraded pixels at a window's rim that do not count: the filters replicate edges there."""
_FLOOR = 0.05
"""Smallest eigenvalue of the prior, in units of the HSI's noise variance."""
_LEAST_PART = 0.1
_LEAST_JITTER_PX, _MOST_JITTER_PX, _SMOOTH_PX = 0.02, 0.4, 3

FloatCube = NDArray[np.float32]
_log = get_logger(__name__)


@dataclass(frozen=True)
class DegradedWindow:
    """A window of the scene one level down.

    Attributes
    ----------
    low, guide, truth
        Shapes (band, row / ratio, col / ratio), (msi band, row, col), (band, row, col).
    valid
        Pixels that are valid in both images, shape (row, col).
    counted
        Pixels of the truth that count, shape (row, col).
    """

    low: FloatCube
    guide: FloatCube
    truth: FloatCube
    valid: NDArray[np.bool_]
    counted: NDArray[np.bool_]


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


def degraded_windows(
    strips: Sequence[LowResolutionStrip], model: SceneModel, *, seed: int = 0, guide_noise: float = 0.0
) -> list[DegradedWindow]:
    """Cut windows from the strips and degrade them by the ratio.

    Parameters
    ----------
    strips
        The scene at low resolution, the MSI as :func:`hsfuse.fusion.scene_model.model.estimate_scene_model` leaves it.
    model
        The pair.
    seed
        For the noise that averaging takes away.
    guide_noise
        Share of the guide's noise variance that is put back onto the averaged guide.
    """
    ratio, rng = model.ratio, np.random.default_rng(seed)
    kept = float((psf_kernel(model.psf, ratio) ** 2).sum()) ** 2
    lost = (model.space.noise * np.sqrt(max(1.0 - kept, 0.0))).astype(np.float32)[:, None, None]
    guide_lost = (model.guide_noise * np.sqrt(guide_noise * max(1.0 - kept, 0.0))).astype(np.float32)[:, None, None]
    windows = []
    for strip, rows, cols in _places(strips, ratio):
        truth, guide, valid = strip.hsi[:, rows, cols], strip.msi[:, rows, cols], strip.valid[rows, cols]
        low = lowpass_decimate_array(truth, ratio, model.psf)
        low = _jittered(low, model.synthesis.jitter_px, rng)
        low = low + lost * rng.standard_normal(low.shape).astype(np.float32)
        guide = guide + guide_lost * rng.standard_normal(guide.shape).astype(np.float32)
        counted = np.zeros_like(valid)
        margin = _RIM * ratio if min(valid.shape) > 4 * _RIM * ratio else 0
        inner = (slice(margin, valid.shape[0] - margin), slice(margin, valid.shape[1] - margin))
        counted[inner] = valid[inner]
        windows.append(DegradedWindow(low, guide, np.ascontiguousarray(truth), valid, counted))
    return windows


def _jittered(low: FloatCube, jitter_px: float, rng: np.random.Generator) -> FloatCube:
    """Displace an image by a smooth random field of so many pixels: as the measured HSI lies to the guide."""
    jitter_px = min(jitter_px, _MOST_JITTER_PX)
    if jitter_px < _LEAST_JITTER_PX or min(low.shape[1:]) < _SMOOTH_PX:
        return low
    shape = low.shape[1:]
    field = gaussian_filter(rng.standard_normal((2, *shape)), (0, _SMOOTH_PX, _SMOOTH_PX), mode="reflect")
    field *= jitter_px / np.maximum(field.std(axis=(1, 2), keepdims=True), 1e-9)
    at = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")) + field
    return np.stack([map_coordinates(band, at, order=3, mode="nearest") for band in low]).astype(np.float32)


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
    repeats = _repeats(sum(window.low[0].size for window in windows))
    strips = [degraded_strip(_mirrored(window, repeats), ratio, psf) for window in windows]
    fused = []
    try:
        method.fit(context, strips)
        for window in windows:
            wide = _mirrored(window, repeats)
            low, guide = (torch.from_numpy(image)[None].to(context.device) for image in (wide.low, wide.guide))
            rows, cols = window.valid.shape
            fused.append(method.fuse(low, guide)[:, :, :rows, :cols].float().contiguous())
    except HsfuseError as error:
        _log.info("The method cannot be validated at reduced resolution on this scene: %s", error.message)
        return None
    return fused


def error_prior(windows: Sequence[DegradedWindow], fused: Sequence[torch.Tensor], model: SceneModel) -> ErrorPrior:
    """Covariance of the method's error: of what it misses, less the noise of the measured truth."""
    forward = model.space.forward
    rank = len(forward)
    scatter, square, count = np.zeros((rank, rank)), np.zeros(forward.shape[1]), 0
    for window, result in zip(windows, fused, strict=True):
        miss = (window.truth - result[0].cpu().numpy())[:, window.counted].astype(np.float64)
        inside = forward @ miss
        scatter += inside @ inside.T
        square += (miss**2).sum(axis=1)
        count += miss.shape[1]
    values, vectors = np.linalg.eigh(scatter / max(count, 1) - np.eye(rank))
    covariance = (vectors * np.maximum(values, _FLOOR)) @ vectors.T
    mean_square = square / max(count, 1)
    error = np.sqrt(np.maximum(mean_square - model.space.noise**2, _LEAST_PART * mean_square))
    return ErrorPrior(covariance, error, len(windows))


def validated_gain(
    windows: Sequence[DegradedWindow], before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], model: SceneModel
) -> float:
    """Gain of one set of results over another at reduced resolution, dB, mean over the bands; noise taken off."""
    sums, count = np.zeros((2, len(model.space.noise))), 0
    for window, *results in zip(windows, before, after, strict=True):
        for row, result in enumerate(results):
            miss = (window.truth - result[0].cpu().numpy())[:, window.counted].astype(np.float64)
            sums[row] += (miss**2).sum(axis=1)
        count += int(window.counted.sum())
    if count == 0:
        return 0.0
    left = np.maximum(sums - model.space.noise**2 * count, _LEAST_PART * sums)
    return float(10.0 * np.log10(left[0] / np.maximum(left[1], 1e-30)).mean())


def fresh_copy(method: FusionMethod) -> FusionMethod:
    """Return an unfitted method like this unfitted one."""
    return copy.deepcopy(method)


def _places(strips: Sequence[LowResolutionStrip], ratio: int) -> list[tuple[LowResolutionStrip, slice, slice]]:
    """Valid windows of the strips, spread evenly."""
    found: list[tuple[LowResolutionStrip, slice, slice]] = []
    for side in (WINDOW_PX, WINDOW_PX // 2, WINDOW_PX // 4, _MIN_WINDOW_PX):
        for strip in strips:
            height, width = (min(side, size) // ratio * ratio for size in strip.valid.shape)
            if min(height, width) < _MIN_WINDOW_PX // ratio * ratio or min(height, width) < ratio:
                continue
            for row in range(0, strip.valid.shape[0] - height + 1, height):
                for col in range(0, strip.valid.shape[1] - width + 1, width):
                    rows, cols = slice(row, row + height), slice(col, col + width)
                    if strip.valid[rows, cols].mean() >= _MIN_VALID:
                        found.append((strip, rows, cols))
        if found:
            break
    if len(found) > MAX_WINDOWS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, MAX_WINDOWS).round().astype(int)]
    return found


def _repeats(pixels: int) -> int:
    """How often small windows are mirrored so that a method has pixels enough to learn from."""
    repeats = 1
    while pixels * repeats**2 < 2 * MIN_PIXELS:
        repeats += 1
    return repeats


def _mirrored(window: DegradedWindow, repeats: int) -> DegradedWindow:
    if repeats == 1:
        return window

    def grow(image: NDArray[Any]) -> NDArray[Any]:
        rows, cols = image.shape[-2:]
        lead = ((0, 0),) * (image.ndim - 2)
        return np.pad(image, (*lead, (0, (repeats - 1) * rows), (0, (repeats - 1) * cols)), mode="symmetric")

    return DegradedWindow(
        grow(window.low), grow(window.guide), grow(window.truth), grow(window.valid), grow(window.counted)
    )


def degraded_strip(window: DegradedWindow, ratio: int, psf: Psf) -> LowResolutionStrip:
    """Return a degraded window as methods get a scene to learn from."""
    rows, cols = window.low.shape[1:]
    coarse = lowpass_decimate_array(window.guide, ratio, psf)
    valid = np.asarray(window.valid.reshape(rows, ratio, cols, ratio).all(axis=(1, 3)))
    return LowResolutionStrip(window.low, coarse, valid, np.where(window.valid, window.guide, np.float32(np.nan)))
