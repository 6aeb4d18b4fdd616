"""The whole co-registration on prepared images: one shift, coarse windows, sub-pixel windows, a field, its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.allocator import give_back
from hsfuse.config import CoregisterConfig
from hsfuse.coregister.correlate import GlobalPeak, joint_ncc, peak_of, window_peaks
from hsfuse.coregister.fit import Choice, choose_field, fit_shift, follow
from hsfuse.coregister.images import OVERSAMPLING, MatchImages
from hsfuse.coregister.models import Fitted, Points, Polynomial, Spline, on_pixels
from hsfuse.coregister.refine import Measurement, Refiner, Warped
from hsfuse.coregister.sampling import Smoother
from hsfuse.coregister.threads import both, side_by_side
from hsfuse.coregister.uncertainty import FieldUncertainty
from hsfuse.coregister.windows import Windows, box_edges
from hsfuse.log import get_logger

_log = get_logger(__name__)

FloatArray = NDArray[np.float64]
PixelField = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_FEATURE_SCALE_PX = 8.0
_COARSE_WINDOW_PX, _COARSE_SEARCH_PX, _COARSE_BATCH = 96, 12, 40
_COARSE_SIGMA_PX, _COARSE_MIN_HEIGHT, _COARSE_MIN_SHARPNESS = 0.4, 0.12, 1.15
_CAPTURE_PX, _SHARP_PX = 5.0, 1.5
"""Scales of the background that is removed: the wider one captures from farther, the finer one is more precise."""
_MOST_SIGMA_PX, _MOST_STEP_PX, _LEAST_CORRELATION, _LEAST_SHARE = 0.25, 2.0, 0.1, 0.25
"""Windows worse than this measure nothing: open water, cloud, noise."""
_WRONG_PX, _CHANCE_QUANTILE = (17, -13), 0.99
"""Where the images certainly do not match, and how many of the windows there stay below the limit."""
_LAX_SIGMA_PX = 1.0
_PASSES = 4
_SETTLED_PX = 0.12
"""Least squares converge quadratically: after a step of this size, the next one is far below the noise."""
_PEAK_WIDTH_PX = 8
_SEARCHED_COARSELY_PX = 700
_AREA_SIDE, _HULL_STEP = 24, 4


@dataclass(frozen=True)
class Match:
    """A lattice of measurements as points.

    Attributes
    ----------
    points
        Position, total displacement and standard error of the usable windows.
    correlation, share
        Multiple correlation and share of usable pixels of those windows.
    step
        Distance from the predicted to the measured displacement, in pixels.
    """

    points: Points
    correlation: FloatArray
    share: FloatArray
    step: FloatArray

    @property
    def settled(self) -> bool:
        """Whether the prediction was so near that measuring again would change nothing."""
        if not self.step.size:
            return False
        near = self.step < np.maximum(_SETTLED_PX, 3.0 * self.points.sigma)
        return bool(near.mean() > 0.9)


@dataclass(frozen=True)
class Registration:
    """What was found, in target pixels (row, col).

    Attributes
    ----------
    peak
        Global correlation peak.
    shift
        Displacement at the peak.
    choice
        The field and the points' weights; None when there were too few points.
    match
        The points it was fitted to.
    check
        Points on pixels that the fit did not see (measured against the field); None when there are none.
    doubt
        How wrong the field is where.
    over_image
        Its variance (square pixels, of one coordinate) at positions spread evenly over what both images cover, clouds
        included, shape (position,).
    """

    peak: GlobalPeak
    shift: tuple[float, float]
    choice: Choice | None = None
    match: Match | None = None
    check: Match | None = None
    doubt: FieldUncertainty | None = None
    over_image: FloatArray = field(default_factory=lambda: np.zeros(0))


def contrast_features(image: Tensor, mask: Tensor, scale_px: float = _FEATURE_SCALE_PX) -> Tensor:
    """Clipped local contrast and its gradient's length for each channel, locally centred, zero under the mask."""
    smoother = Smoother(int(image.shape[-2]), int(image.shape[-1]), scale_px, image.device)
    count = mask.sum().clamp(min=1.0)
    features = torch.zeros((2 * len(image), *mask.shape), device=image.device)
    contrast, steep = features[: len(image)], features[len(image) :]
    smoother.subtract(image, mask, contrast)
    for plain, slope in zip(contrast, steep, strict=True):
        plain *= mask
        scale = 1.25 * plain.abs().sum() / count
        plain.div_(scale.clamp(min=1e-9)).clamp_(-3.0, 3.0)
        torch.hypot(
            plain[1:-1, 2:] - plain[1:-1, :-2], plain[2:, 1:-1] - plain[:-2, 1:-1], out=slope[1:-1, 1:-1]
        )  # fmt: skip
    smoother.subtract(steep, mask, steep).mul_(mask)
    return features


class Registrar:
    """Runs the stages on one pair of images.

    Parameters
    ----------
    images
        Prepared images.
    config
        Settings.
    device
        Where the arrays are worked on.
    """

    def __init__(self, images: MatchImages, config: CoregisterConfig, device: torch.device) -> None:
        self._grid, self._margin, self._config, self._device = images.grid, images.margin_px, config, device
        self._target = torch.from_numpy(images.target).to(device)
        self._reference = torch.from_numpy(images.reference).to(device)
        self.height, self.width = images.grid.shape
        everywhere = torch.ones((self.height, self.width), dtype=torch.bool, device=device)
        self._check_pixels = self._check_mask() if config.coregister != "global" else ~everywhere
        self._use_windows(min(config.window_px, max(16, min(self.height, self.width) // 3)), config.step_px)
        self._least_share = _LEAST_SHARE
        self._constant = Polynomial(0, self.height, self.width)
        self._chance: float | None = None
        self._warped: Warped | None = None
        # The refiner changes the reference, so its outline is taken now.
        self._target_hull, self._reference_hull = _hull(images.target[0]), _hull(images.reference[0])

    def _use_windows(self, window: int, step: int) -> None:
        step = min(step, window)
        self._step_px, self._window_px = step, window
        self._windows = Windows.hann(self.height, self.width, window, step, self._device)
        self._spline = Spline.over(self.height, self.width, self._knot_px(2.0 * step), self._grid)

    def _widen(self) -> bool:
        """Go on with windows twice as wide that need as many usable pixels; False when the image is too small."""
        window = min(2 * self._window_px, min(self.height, self.width) * 2 // 3)
        if window < 1.5 * self._window_px:
            return False
        wider = window / self._window_px
        self._least_share /= wider**2
        self._use_windows(window, round(wider * self._step_px))
        return True

    def _knot_px(self, wished: float) -> float:
        return max(wished, max(self.height, self.width) / 36.0)

    @property
    def cell_px(self) -> int:
        """Side of the cells whose pixels are kept for checking: large enough to match, small enough to be many."""
        wished = np.sqrt(self.height * self.width * self._config.holdout / 80.0)
        return int(np.clip(wished, 24, 48))

    def _check_mask(self) -> Tensor:
        every = max(2, round(1.0 / self._config.holdout))
        skip = 2 if every >= 4 else 1
        index = [
            np.searchsorted(box_edges(size, self.cell_px), np.arange(size), side="right") - 1
            for size in (self.height, self.width)
        ]
        return torch.from_numpy((index[0][:, None] + skip * index[1][None, :]) % every == 0).to(self._device)

    def run(self) -> Registration:
        """Run all stages that the images and the settings allow."""
        peak, shift = self._global_peak()
        found = Registration(peak, shift)
        if not self.convincing(peak):
            return found
        start = np.empty((2, self.height, self.width), dtype=np.float32)
        start[0], start[1] = shift
        if self._config.coregister != "global":
            start = self._coarse(shift, start)
        return self._refine(found, start)

    def convincing(self, peak: GlobalPeak) -> bool:
        """Whether the global peak stands out enough to go on."""
        return peak.score >= self._config.min_peak_score and peak.ratio >= self._config.min_peak_ratio

    def _global_peak(self) -> tuple[GlobalPeak, tuple[float, float]]:
        reference = self._reference[: self._target.shape[0]]
        factor = self._search_factor
        scale = _FEATURE_SCALE_PX / factor
        mine, theirs = both(
            lambda: _featured(self._target, factor, scale),
            lambda: _featured(reference, OVERSAMPLING * factor, scale),
        )
        self._features, self._feature_mask = mine
        self._reference_features, self._reference_mask = theirs
        surface = joint_ncc(self._features, self._feature_mask, self._reference_features, self._reference_mask)
        peak = peak_of(surface.double().cpu().numpy(), exclude_px=_PEAK_WIDTH_PX // factor)
        margin = self._margin
        return peak, (factor * peak.row - margin, factor * peak.col - margin)

    @property
    def _search_factor(self) -> int:
        """Large images are searched at half their resolution: they have pattern enough."""
        return 2 if min(self.height, self.width) >= _SEARCHED_COARSELY_PX else 1

    def _coarse(self, shift: tuple[float, float], start: PixelField) -> PixelField:
        """Follow distortions of several pixels with large windows, searched around the global shift."""
        factor = self._search_factor
        size = np.array(self._feature_mask.shape)
        side = min(_COARSE_WINDOW_PX // factor, int(size.min()))
        search, over = _COARSE_SEARCH_PX // factor, side // 4
        # Windows reach over the border, so that little of the field lies beyond the outermost ones.
        rows, cols = (
            np.linspace(-over, n - side + over, max(1, round((n - side) / (side / 2)) + 2)) for n in size.tolist()
        )
        corner = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2).round().astype(int)
        offset = np.round((np.array(shift) + self._margin) / factor).astype(int) - search
        pad = side + 2 * search
        features, mask = (torch.nn.functional.pad(x, (over,) * 4) for x in (self._features, self._feature_mask))
        reference = torch.nn.functional.pad(self._reference_features, (pad,) * 4)
        reference_mask = torch.nn.functional.pad(self._reference_mask, (pad,) * 4)
        there = np.clip(corner + offset + pad, 0, np.array(reference_mask.shape) - pad)

        def peaks(first: int) -> tuple[FloatArray, FloatArray, FloatArray]:
            part = slice(first, first + _COARSE_BATCH)
            surface = joint_ncc(
                _cut(features, corner[part] + over, side), _cut(mask, corner[part] + over, side),
                _cut(reference, there[part], pad), _cut(reference_mask, there[part], pad), min_share=0.5,
            )  # fmt: skip
            return window_peaks(surface)

        found = list(side_by_side(peaks, range(0, len(corner), _COARSE_BATCH)))
        at, height, sharpness = (np.concatenate(values) for values in zip(*found, strict=True))
        good = (height > _COARSE_MIN_HEIGHT) & (sharpness > _COARSE_MIN_SHARPNESS)
        good &= (np.abs(at - search) < search - 0.5).all(axis=1)
        if good.sum() < 8:
            return start
        value = factor * (there - pad - corner + at) - self._margin
        centre = np.clip(corner + (side - 1) / 2.0, over, size - over) * factor + (factor - 1) / 2.0
        sigma = np.full(len(value), _COARSE_SIGMA_PX * factor**0.5)
        side *= factor
        points = Points(centre, value, sigma, 4.0, side / 2.0).take(good)
        spline = Spline.over(self.height, self.width, self._knot_px(side * 0.75), self._grid)
        return on_pixels(follow(points, spline, smoothing=0.03).fitted, self.height, self.width)

    def _refine(self, found: Registration, field: PixelField) -> Registration:
        """Measure, fit, predict, measure again, until the field stands still."""
        fit_pixels = ~self._check_pixels
        # The features are no longer needed, and the refiner is the largest user of memory.
        del self._features, self._feature_mask, self._reference_features, self._reference_mask
        give_back()
        half = self._half_resolution(field, fit_pixels) if self._search_factor == 2 else None
        give_back()
        refiner = Refiner(self._target, self._reference, self._margin, background_px=_CAPTURE_PX)
        del self._target, self._reference
        if half is not None and self._match(half, field, strict=False).points.size >= 2 * self._config.min_points:
            measured, few = half, False
        else:
            measured = refiner.measure(self._windows, self._on_device(field), fit_pixels, rounds=1)
            few = self._match(measured, field, strict=False).points.size < self._config.min_points
        if few and self._widen():
            # Between scattered clouds a usual window holds too little land, but the scene as a whole does not.
            measured = refiner.measure(self._windows, self._on_device(field), fit_pixels, rounds=1)
        refiner.background_px = _SHARP_PX
        for _ in range(_PASSES):
            # Doubtful windows help to get near, but have no say in the result.
            match = self._match(measured, field, strict=False)
            if match.points.size < 4:
                return replace(found, match=match)
            field = on_pixels(self._follow(match.points), self.height, self.width)
            self._warped = refiner.warp(self._on_device(field))
            measured, self._chance = both(
                partial(refiner.measure, self._windows, self._warped, fit_pixels),
                partial(self._chance_correlation, refiner, self._warped, fit_pixels),
            )
            match = self._match(measured, field)
            if match.settled:
                break
        if match.points.size < 4:
            return replace(found, match=match)
        found = replace(found, match=match)
        if match.settled:
            # The field that is fitted now is so near that the points for checking can be measured beside it.
            found, check = both(partial(self._concluded, found), partial(self._check, refiner, field, self._warped))
            return replace(found, check=check)
        found = self._concluded(found)
        if found.choice is None:
            return found
        return replace(found, check=self._check(refiner, on_pixels(found.choice.fitted, self.height, self.width)))

    def _half_resolution(self, field: PixelField, allowed: Tensor) -> Measurement | None:
        """Measure with the same windows on images of half the resolution: what is near enough needs no more at first.

        Averages of 2 x 2 pixels of the target and of 2 x 2 samples of the reference stay equally sharp, because the
        reference is also evaluated by a spline twice as wide.
        """
        if self.height % 2 or self.width % 2 or self._reference.shape[-2] % 2 or self._reference.shape[-1] % 2:
            return None
        target, reference = both(partial(_halved, self._target), partial(_halved, self._reference))
        kept = torch.nn.functional.avg_pool2d(allowed[None].float(), 2)[0] == 1.0
        refiner = Refiner(target, reference, self._margin / 2, background_px=_CAPTURE_PX / 2)
        windows = Windows.hann(
            self.height // 2, self.width // 2, self._window_px // 2, self._step_px // 2, self._device
        )
        if windows.shape != self._windows.shape:
            return None
        coarse = torch.nn.functional.avg_pool2d(self._on_device(field)[None], 2)[0] / 2
        found = refiner.measure(windows, coarse, kept, rounds=1)
        return replace(
            found, d_row=2 * found.d_row, d_col=2 * found.d_col, variance=4 * found.variance,
            row=2 * found.row + 0.5, col=2 * found.col + 0.5,
        )  # fmt: skip

    def _chance_correlation(self, refiner: Refiner, warped: Warped, allowed: Tensor) -> float:
        """Correlation that windows reach at a wrong position: those that fit no better measure nothing."""
        if self._chance is not None:
            return self._chance
        rows, windows = slice(0, self.height), self._windows
        if self._search_factor == 2:
            # A large image has windows enough in the middle half of its rows.
            rows = slice(self.height // 4, self.height - self.height // 4)
            windows = Windows.hann(rows.stop - rows.start, self.width, self._window_px, self._step_px, self._device)
        wrong = warped.cut(rows).moved(*_WRONG_PX)
        correlation, share = refiner.resemblance(windows, wrong, allowed[rows], top=rows.start)
        seen = correlation[share > self._least_share]
        return float(np.quantile(seen, _CHANCE_QUANTILE)) if seen.size else 0.0

    def _single_shift(self, points: Points) -> bool:
        return self._config.coregister == "global" or points.size < self._config.min_points

    def _concluded(self, found: Registration) -> Registration:
        """Choose the field and determine how wrong it is where."""
        if found.match is None:
            return found
        points = found.match.points
        single = self._single_shift(points)
        choice = fit_shift(points, self._constant) if single else choose_field(points, self._spline)
        doubt = FieldUncertainty.of(choice.fitted, points, choice.weight)
        return replace(found, choice=choice, doubt=doubt, over_image=doubt.variance_at(self._area(choice.fitted)))

    def _follow(self, points: Points) -> Fitted:
        if self._single_shift(points):
            return fit_shift(points, self._constant).fitted
        return follow(points, self._spline).fitted

    def _area(self, fitted: Fitted) -> FloatArray:
        """Positions in the area that both images cover: inside the hulls of their usable pixels."""
        rows, cols = (np.linspace(0, n - 1, _AREA_SIDE).round().astype(int) for n in (self.height, self.width))
        row, col = (v.ravel() for v in np.meshgrid(rows, cols, indexing="ij"))
        every = np.stack([row, col], axis=1).astype(np.float64)
        seen = (fitted.at(every) + every + self._margin) * OVERSAMPLING
        inside = self._target_hull(every) & self._reference_hull(seen)
        return every[inside] if inside.sum() >= _AREA_SIDE else every

    def _check(self, refiner: Refiner, field: PixelField, warped: Warped | None = None) -> Match | None:
        """Measure the pixels that were held back."""
        if not bool(self._check_pixels.any()):
            return None
        boxes = Windows.boxes(self.height, self.width, self.cell_px, self._device)
        measured = refiner.measure(boxes, warped or self._on_device(field), self._check_pixels)
        match = self._match(measured, field, least_share=0.4)
        return match if match.points.size else None

    def _match(
        self, measured: Measurement, field: PixelField, *, least_share: float | None = None, strict: bool = True
    ) -> Match:
        sigma = np.sqrt(measured.variance)
        step = np.hypot(measured.d_row, measured.d_col)
        good = (
            (measured.share > (self._least_share if least_share is None else least_share))
            & (sigma > 0)
            & (step < _MOST_STEP_PX)
            & np.isfinite(step)
        )
        good &= sigma < (_MOST_SIGMA_PX if strict else _LAX_SIGMA_PX)
        if strict:
            good &= measured.correlation > max(_LEAST_CORRELATION, self._chance or 0.0)
        row, col = measured.row[good], measured.col[good]
        i = np.clip(np.rint(row).astype(int), 0, self.height - 1)
        j = np.clip(np.rint(col).astype(int), 0, self.width - 1)
        value = np.stack([measured.d_row[good] + field[0, i, j], measured.d_col[good] + field[1, i, j]], axis=1)
        # Below a hundredth of a pixel the radiometric model and not the noise sets the limit.
        points = Points(
            np.stack([row, col], axis=1), value, np.hypot(sigma[good], 0.01), self._windows.sharing,
            float(self._step_px), float(self._window_px),
        )  # fmt: skip
        return Match(points, measured.correlation[good], measured.share[good], step[good])

    def _on_device(self, field: PixelField) -> Tensor:
        return torch.from_numpy(field).to(self._device)


def _hull(image: NDArray[np.float32]) -> Callable[[FloatArray | NDArray[np.integer]], BoolArray]:
    """Test for positions (row, col) inside the convex hull of the pixels with data."""
    some = np.isfinite(image[::_HULL_STEP])
    rows = np.flatnonzero(some.any(axis=1))
    first, last = some[rows].argmax(axis=1), image.shape[1] - 1 - some[rows, ::-1].argmax(axis=1)
    outline = np.column_stack([np.tile(rows * _HULL_STEP, 2), np.concatenate([first, last])])

    @cache
    def triangles() -> Any:
        from scipy.spatial import ConvexHull, Delaunay, QhullError

        try:
            return Delaunay(outline[ConvexHull(outline).vertices])
        except QhullError:
            return None

    def inside(position: FloatArray | NDArray[np.integer]) -> BoolArray:
        found = triangles()
        if found is None:
            return np.ones(len(position), dtype=np.bool_)
        return np.asarray(found.find_simplex(position) >= 0)

    return inside


def _featured(image: Tensor, factor: int, scale_px: float) -> tuple[Tensor, Tensor]:
    """Features and mask of an image averaged over ``factor`` x ``factor`` samples, half of which must be valid."""
    valid = torch.isfinite(image[0])
    for layer in image[1:]:
        valid &= torch.isfinite(layer)
    share = torch.nn.functional.avg_pool2d(valid[None].float(), factor)[0]
    mask = (share >= 0.5).float()
    mean = torch.empty((len(image), *mask.shape), device=image.device)
    for layer, out in zip(image, mean, strict=True):
        out.copy_(torch.nn.functional.avg_pool2d(torch.where(valid, layer, 0.0)[None], factor)[0])
        out.div_(share.clamp(min=0.5)).mul_(mask)
    return contrast_features(mean, mask, scale_px), mask


def _halved(image: Tensor) -> Tensor:
    """Means of 2 x 2 samples, NaN where one of them is."""
    return torch.nn.functional.avg_pool2d(image[None], 2)[0]


def _cut(image: Tensor, corners: NDArray[np.integer], side: int) -> Tensor:
    return torch.stack([image[..., r : r + side, c : c + side] for r, c in corners.tolist()])
