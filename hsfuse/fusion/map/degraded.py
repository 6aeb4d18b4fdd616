"""Windows of a scene one level down (Wald's protocol), where the measured HSI is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, spline_filter1d
from scipy.sparse import csr_array

from hsfuse.degrade import Psf, lowpass_decimate_array, psf_kernel
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import MIN_PIXELS
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import side_by_side

_WINDOW_PX, MAX_WINDOWS = 96, 12
_MIN_WINDOW_PX = 9
_MIN_VALID = 0.6
_FEW_PIXELS = 400
"""Pixels of unchanged ground below which windows hold repaired ground too: between changes there is no room for any."""
_RIM = 2
"""Degraded pixels at a window's rim that do not count: the filters replicate edges there."""
_LEAST_JITTER_PX, _MOST_JITTER_PX, _SMOOTH_PX = 0.02, 0.4, 3
_FARTHEST = 5.0
"""Largest displacement over the deviation of all."""
_PAD_PX = 12
"""By which an image is continued before its splines are found; displacements are smaller."""

FloatCube = NDArray[np.float32]


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


def degraded_windows(
    strips: Sequence[LowResolutionStrip],
    model: SceneModel,
    *,
    seed: int = 0,
    guide_noise: float = 0.0,
    most: int = MAX_WINDOWS,
    threads: int = 1,
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
    most
        Windows; of more, those are taken that are spread evenly.
    threads
        How many work side by side.
    """
    if sum(int(np.count_nonzero(strip.valid)) for strip in strips) < _FEW_PIXELS:
        strips = [replace(strip, valid=strip.of_hsi) for strip in strips]
    ratio, rng = model.ratio, np.random.default_rng(seed)
    kept = float((psf_kernel(model.psf, ratio) ** 2).sum()) ** 2
    lost = (model.space.noise * np.sqrt(max(1.0 - kept, 0.0))).astype(np.float32)[:, None, None]
    guide_lost = (model.guide_noise * np.sqrt(guide_noise * max(1.0 - kept, 0.0))).astype(np.float32)[:, None, None]

    def degraded(piece: tuple[LowResolutionStrip, slice, slice, _Draws]) -> DegradedWindow:
        strip, rows, cols, drawn = piece
        truth, guide, valid = strip.hsi[:, rows, cols], strip.msi[:, rows, cols], strip.valid[rows, cols]
        low = lowpass_decimate_array(truth, ratio, model.psf)
        if drawn.displacement is not None:
            low = _displaced(low, drawn.displacement)
        counted = np.zeros_like(valid)
        margin = _RIM * ratio if min(valid.shape) > 4 * _RIM * ratio else 0
        inner = (slice(margin, valid.shape[0] - margin), slice(margin, valid.shape[1] - margin))
        counted[inner] = valid[inner]
        return DegradedWindow(
            low + lost * drawn.hsi, guide + guide_lost * drawn.guide, np.ascontiguousarray(truth), valid, counted
        )  # fmt: skip

    # What is drawn must not depend on which window is finished first.
    pieces = ((*place, _Draws.of(rng, *place, model)) for place in _places(strips, ratio, most))
    return list(side_by_side(degraded, pieces, threads))


@dataclass(frozen=True)
class _Draws:
    """Random numbers for a window: noise of both images, and a displacement (2, row, col) in pixels or None."""

    displacement: NDArray[np.float64] | None
    hsi: FloatCube
    guide: FloatCube

    @classmethod
    def of(
        cls, rng: np.random.Generator, strip: LowResolutionStrip, rows: slice, cols: slice, model: SceneModel
    ) -> _Draws:  # fmt: skip
        height, width = rows.stop - rows.start, cols.stop - cols.start
        coarse = height // model.ratio, width // model.ratio
        jitter = min(model.synthesis.jitter_px, _MOST_JITTER_PX)
        displacement = None
        if jitter >= _LEAST_JITTER_PX and min(coarse) >= _SMOOTH_PX:
            # As the measured HSI lies to the guide: by a smooth random field.
            field = gaussian_filter(rng.standard_normal((2, *coarse)), (0, _SMOOTH_PX, _SMOOTH_PX), mode="reflect")
            field /= np.maximum(field.std(axis=(1, 2), keepdims=True), 1e-9)
            # In a window of few pixels the field is nearly constant, with hardly a deviation to scale by.
            displacement = jitter * np.clip(field, -_FARTHEST, _FARTHEST)
        hsi, guide = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((len(strip.hsi), *coarse), (len(strip.msi), height, width))
        )
        return cls(displacement, hsi, guide)


def _displaced(low: FloatCube, displacement: NDArray[np.float64]) -> FloatCube:
    """Cubic splines through the pixels of all bands at displaced positions, as :func:`scipy.ndimage.map_coordinates`.

    Called for each band, that spends most of its time in holding the interpreter's lock.
    """
    at = np.stack(np.meshgrid(*(np.arange(size) for size in low.shape[1:]), indexing="ij")) + displacement
    knots = np.pad(low, ((0, 0), (_PAD_PX, _PAD_PX), (_PAD_PX, _PAD_PX)), mode="edge").astype(np.float64)
    for axis in (1, 2):
        knots = spline_filter1d(knots, 3, axis=axis, mode="nearest")
    rows, cols = knots.shape[1:]
    whole = np.floor(at)
    t, s = at - whole, 1.0 - (at - whole)
    # Shape (tap, axis, row, col).
    weights = np.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3]) / 6.0
    taps = np.arange(4)[:, None, None] + whole.astype(np.int64)[:, None] + _PAD_PX - 1
    index = taps[0][:, None] * cols + taps[1][None]
    weight = weights[:, None, 0] * weights[None, :, 1]
    count = at[0].size
    matrix = csr_array(
        (weight.reshape(16, -1).T.ravel(), index.reshape(16, -1).T.ravel(), np.arange(count + 1) * 16),
        shape=(count, rows * cols),
    )
    values = matrix @ np.ascontiguousarray(knots.reshape(len(low), -1).T)
    return np.ascontiguousarray(values.T, dtype=np.float32).reshape(low.shape)


def _places(
    strips: Sequence[LowResolutionStrip], ratio: int, most: int
) -> list[tuple[LowResolutionStrip, slice, slice]]:
    """Valid windows of the strips, spread evenly."""
    found: list[tuple[LowResolutionStrip, slice, slice]] = []
    for side in (_WINDOW_PX, _WINDOW_PX // 2, _WINDOW_PX // 4, _MIN_WINDOW_PX):
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
    if len(found) > most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]
    return found


def repeats_for(pixels: int) -> int:
    """How often small windows are mirrored so that a method has pixels enough to learn from."""
    repeats = 1
    while pixels * repeats**2 < 2 * MIN_PIXELS:
        repeats += 1
    return repeats


def mirrored(window: DegradedWindow, repeats: int) -> DegradedWindow:
    """Return a window with its mirror images beside and below, so many in each direction."""
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
