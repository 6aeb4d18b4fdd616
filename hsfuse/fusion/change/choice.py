"""Choice of a local correction: candidates are weighed place by place by their leave-one-out errors.

Candidates are regressions in windows of several widths (:mod:`hsfuse.fusion.change.local`) and the pattern of the scene
(:mod:`hsfuse.fusion.change.pattern`). All look at a bounded neighbourhood, and the little that is the same all over an
image is found first, so a whole scene is worked on some rows at a time: its candidates would take gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade.windows import row_parts, rows_around, rows_inside
from hsfuse.fusion.change.candidates import Candidates
from hsfuse.fusion.change.local import (
    Correction,
    gain_power,
    guide_scale,
    local_affine,
    local_gain,
    reach_px,
    shares_by_error,
    window_mean,
)
from hsfuse.fusion.change.pattern import AmplitudeScale, ScenePattern
from hsfuse.grid import Slice2D
from hsfuse.parallel import side_by_side, threads_for
from hsfuse.spilled import SpilledImages

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]
_Regression = Callable[[float, float], tuple[FloatArray, FloatArray]]

CANDIDATES = ((2.0, 0.03), (2.0, 0.3), (4.0, 0.1))
"""Width of the window (standard deviation, HSI pixels) and ridge in pseudo-pixels."""
GAIN_CANDIDATE = (0.9, 0.1)
"""The same for a gain of each band alone, of which a smaller window tells enough."""
LEAST_GAIN, LEAST_BLIND_GAIN = 0.8, 0.6
"""The leave-one-out error must fall to this share of what it was, with the MSI's responses and without: then windows
correct the relation rather than the guide. The latter also where images are displaced locally."""
_CHOICE_PX, _DECISIVENESS = 2.0, 4.0
"""Width of the window that errors are compared in, and how much the better candidate is preferred there: their errors
are partly independent, so a mean of good ones is better than the best. On fourteen tuning cubes (two seeds) mixes of
changes gain 0.04 to 0.06 dB outside over 8, seasons 0.01 to 0.02 dB."""
_SOME_PIXELS, _ROWS = 200_000, 96
"""Pixels of an image that is worked on at once, with its candidates side by side, and rows of larger ones at a time."""


@dataclass(frozen=True)
class CorrectionData:
    """What a correction follows from, at low resolution.

    Attributes
    ----------
    seen
        What the HSI shows of the MSI bands, shape (msi band, row, col).
    guide
        The MSI, the same shape.
    noise
        Variance that differences are measured in, shape (msi band,).
    weight
        Trust in each pixel, shape (row, col).
    judged
        Weight of each pixel where errors are compared with those without a correction, the same shape.
    pattern
        That of the scene, which is tried too, with its functions as the HSI blurs them, shape (function, row, col).
    """

    seen: FloatArray
    guide: FloatArray
    noise: FloatArray
    weight: FloatArray
    judged: FloatArray
    pattern: tuple[ScenePattern, FloatCube] | None = None

    def part(self, rows: slice) -> CorrectionData:
        """Return some rows."""
        pattern = None if self.pattern is None else (self.pattern[0], self.pattern[1][:, rows])
        return replace(
            self, seen=self.seen[:, rows], guide=self.guide[:, rows], weight=self.weight[rows],
            judged=self.judged[rows], pattern=pattern,
        )  # fmt: skip

    def loss(self, error: FloatArray) -> FloatArray:
        """Mean square of errors (msi band, row, col) in units of the noise, shape (row, col)."""
        return np.asarray((error**2 / self.noise[:, None, None]).mean(axis=0))


@dataclass(frozen=True)
class _Scale:
    """What is the same all over an image: of the guide, of its bands, a typical error, and of the amplitude."""

    guide: tuple[FloatArray, FloatArray]
    power: FloatArray
    level: float
    amplitude: AmplitudeScale | None

    @classmethod
    def of(cls, data: CorrectionData) -> _Scale:
        before = np.empty(data.weight.shape)
        for rows in row_parts(len(before), _ROWS):
            part = data.part(rows)
            before[rows] = data.loss(part.seen - part.guide)
        amplitude = None
        if data.pattern is not None:
            amplitude = data.pattern[0].amplitude_scale(
                data.pattern[1], data.seen, data.guide, data.noise, data.weight
            )  # fmt: skip
        return cls(
            guide_scale(data.guide, data.weight), gain_power(data.guide, data.weight),
            float(window_mean(before * data.weight, _CHOICE_PX).mean()), amplitude,
        )  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """A correction of some rows.

    Attributes
    ----------
    matrix, share, amplitude
        As of :class:`Correction`: matrix, shape (msi band, msi band + 1, row, col), the pattern's share, and its
        amplitude; None without a pattern.
    factors
        As of :class:`Candidates`, shape (candidate, msi band + 1, row, col); None where nobody asks.
    direction
        That these are along.
    moments
        Sums of products of what the correction adds, and of that itself, in units of the noise's deviation, shape
        (msi band, msi band + 1).
    losses
        Judged errors without a correction and with it.
    error
        Judged square errors of each band.
    """

    matrix: FloatCube
    share: FloatArray
    amplitude: FloatArray | None
    factors: FloatCube | None
    direction: FloatArray | None
    moments: FloatArray
    losses: FloatArray
    error: FloatArray


def best_correction(
    data: CorrectionData, least_gain: float, *, small: bool, keep: bool = False, direction: FloatArray | None = None
) -> Correction | None:  # fmt: skip
    """Return the correction of a guide at low resolution, or None where none is clearly better.

    Parameters
    ----------
    data
        What it follows from.
    least_gain
        Share of the error that must not be exceeded.
    small
        Whether small windows are tried too.
    keep
        Whether to return :class:`Candidates` where there is a pattern.
    direction
        That these are along, in units of the noise's deviation, of length 1, shape (msi band,); None: that in which
        the correction is largest, for which more than :data:`_SOME_PIXELS` are worked on twice.
    """
    scale, height = _Scale.of(data), len(data.weight)
    keep = keep and data.pattern is not None
    at_once = data.weight.size <= _SOME_PIXELS
    parts = [slice(0, height)] if at_once else row_parts(height, _ROWS)

    if keep and direction is None and not at_once:
        moments = [_corrected_rows(data, scale, rows, small, keep=False, direction=None).moments for rows in parts]
        direction = _main_direction(np.sum(moments, axis=0))
    matrix = factors = None
    share = amplitude = None
    losses, error = np.zeros(2), np.zeros(len(data.noise))
    # One part after another: candidates work side by side.
    for rows in parts:
        part = _corrected_rows(data, scale, rows, small, keep, direction)
        losses, error, direction = losses + part.losses, error + part.error, part.direction
        matrix, share = _spilled(matrix, part.matrix, rows, height), _put(share, part.share, rows, height)
        if part.amplitude is not None:
            amplitude = _put(amplitude, part.amplitude, rows, height)
        if part.factors is not None:
            factors = _spilled(factors, part.factors, rows, height)
    if matrix is None or losses[1] >= least_gain * losses[0]:
        return None
    told, candidates = None, None
    if data.pattern is not None and share is not None and amplitude is not None:
        pattern = data.pattern[0]
        told = pattern, share, share * amplitude
        if factors is not None and direction is not None:
            along = pattern.along(direction / np.sqrt(data.noise))
            candidates = Candidates(direction, factors, (along, amplitude.astype(np.float32)))
    return Correction(matrix, told, error / data.judged.sum(), candidates)


def _put(whole: FloatArray | None, part: FloatArray, rows: slice, height: int) -> FloatArray:
    """Write some rows into an image of so many, which is made for the first."""
    if len(part) == height:
        return part
    if whole is None:
        whole = np.empty((height, part.shape[1]))
    whole[rows] = part
    return whole


def _spilled(whole: SpilledImages | None, part: FloatCube, rows: slice, height: int) -> SpilledImages:
    """Write some rows of (..., row, col) into images of so many, one after the other, which are made for the first."""
    images = part.reshape(-1, *part.shape[-2:])
    if len(images[0]) == height:
        return SpilledImages(images)
    if whole is None:
        whole = SpilledImages.to_be_written((len(images), height, images.shape[2]))
    whole.write(Slice2D.of(rows, slice(0, images.shape[2])), images)
    return whole


def _corrected_rows(
    data: CorrectionData, scale: _Scale, rows: slice, small: bool, keep: bool, direction: FloatArray | None
) -> _Rows:  # fmt: skip
    """Correct some rows of the image that ``scale`` tells of."""
    height, choice_px = len(data.weight), reach_px(_CHOICE_PX)
    widest = max(sigma for sigma, _ in CANDIDATES)
    read = rows_around(rows, choice_px + reach_px(widest), height)
    inner, part = rows_inside(rows, read), data.part(read)
    asked = None
    if rows != read:
        asked = np.zeros(part.weight.shape, bool)
        asked[rows_inside(rows_around(rows, choice_px, height), read)] = True
    before = part.seen - part.guide

    def affine(sigma: float, ridge: float) -> tuple[FloatArray, FloatArray]:
        return local_affine(part.seen, part.guide, part.weight, sigma, ridge, asked, scale=scale.guide)

    def gain(sigma: float, ridge: float) -> tuple[FloatArray, FloatArray]:
        return local_gain(part.seen, part.guide, part.weight, sigma, ridge, scale.power)

    tried: list[tuple[_Regression, float, float]] = [(affine, *candidate) for candidate in CANDIDATES]
    if small:
        tried.append((gain, *GAIN_CANDIDATE))

    def found(candidate: tuple[_Regression, float, float]) -> tuple[FloatCube, FloatArray]:
        regress, sigma, ridge = candidate
        correction, error = regress(sigma, ridge)
        return correction[:, :, inner].astype(np.float32), error

    errors, corrections, amplitude = [before], [], None
    for correction, error in side_by_side(found, tried, threads_for(len(tried))):
        errors.append(error)
        corrections.append(correction)
    if part.pattern is not None and scale.amplitude is not None:
        amplitude, error = part.pattern[0].amplitude(part.pattern[1], before, part.noise, part.weight, scale.amplitude)
        errors.append(error)
    share = shares_by_error(
        [data.loss(error) for error in errors], part.weight, _CHOICE_PX, _DECISIVENESS, scale.level
    )[:, inner]  # fmt: skip
    blended = np.asarray(sum(one * error[:, inner] for one, error in zip(share, errors, strict=True)))
    linear = share[1 : len(corrections) + 1]
    matrix = np.asarray(sum(one.astype(np.float32) * each for one, each in zip(linear, corrections, strict=True)))
    before, judged, factors = before[:, inner], part.judged[inner], None
    # The residuals are left out ones: what they lack of the difference is what the correction adds, nearly.
    deviation = np.sqrt(part.noise)
    added = ((before - blended) / deviation[:, None, None]).reshape(len(deviation), -1)
    trusted = added * part.weight[inner].ravel()
    moments = np.column_stack([trusted @ added.T, trusted.sum(axis=1)])
    if keep:
        direction = _main_direction(moments) if direction is None else direction
        factors = np.stack([
            np.tensordot(direction / deviation, each, axes=1).astype(np.float32) for each in corrections
        ])  # fmt: skip
    losses = np.array([(data.loss(error) * judged).sum() for error in (before, blended)])
    return _Rows(
        matrix, share[-1], None if amplitude is None else amplitude[inner], factors, direction, moments, losses,
        (blended**2 * judged).sum(axis=(1, 2)),
    )  # fmt: skip


def _main_direction(moments: FloatArray) -> FloatArray:
    """Direction in which what a correction adds is largest, shape (msi band,); towards its mean. See :class:`_Rows`."""
    direction = np.linalg.eigh(moments[:, :-1])[1][:, -1]
    return np.asarray(direction if float(direction @ moments[:, -1]) >= 0.0 else -direction)
