"""The whole co-registration on prepared images: one shift, coarse windows, sub-pixel windows, a field, its error."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.allocator import give_back
from hsfuse.config import CoregisterConfig
from hsfuse.coregister.correlate import GlobalPeak
from hsfuse.coregister.extent import convex_outline
from hsfuse.coregister.fine import first_boxes, fit_finer
from hsfuse.coregister.fit import choose_field, fit_fixed_smoothing, fit_shift
from hsfuse.coregister.global_search import GlobalSearch
from hsfuse.coregister.halved import HalvedImages
from hsfuse.coregister.images import OVERSAMPLING, MatchImages
from hsfuse.coregister.layers import find_second_layer
from hsfuse.coregister.measurement import Measurement
from hsfuse.coregister.models import Fitted, FloatArray, Points, on_pixels
from hsfuse.coregister.polynomials import Polynomial
from hsfuse.coregister.refine import Refiner, Warped
from hsfuse.coregister.registration import Match, Registration, Seen
from hsfuse.coregister.relief import Relief
from hsfuse.coregister.shadows import ShadowBias, is_biased, light_variance, lit_pixels
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.threads import run_all, run_both
from hsfuse.coregister.uncertainty import FieldUncertainty
from hsfuse.coregister.windows import Windows, box_edges
from hsfuse.log import get_logger

_log = get_logger(__name__)

PixelField = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_FEWEST_COARSE = 8
_CAPTURE_PX, _SHARP_PX = 5.0, 1.5
"""Scales of the background that is removed: the wider one captures from farther, the finer one is more precise."""
_MOST_SIGMA_PX, _MOST_STEP_PX, _LEAST_CORRELATION, _LEAST_SHARE = 0.25, 2.0, 0.1, 0.25
"""Windows worse than this measure nothing: open water, cloud, noise."""
_MISALIGNED_PX, _NULL_QUANTILE = (17, -13), 0.99
"""Where the images certainly do not match, and how many of the windows there stay below the limit."""
_LOOSE_SIGMA_PX = 1.0
_LEAST_CHECKED_SHARE = 0.4
_SHADOW_PASSES, _LEAST_LIT = 2, 0.4
_PASSES = 4
_HALVED_FROM_PX = 700
_AREA_SIDE = 24


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
    relief
        Heights of the ground, when known.
    """

    def __init__(
        self, images: MatchImages, config: CoregisterConfig, device: torch.device, relief: Relief | None = None
    ) -> None:
        self._relief = relief
        self._grid, self._margin, self._config, self._device = images.grid, images.margin_px, config, device
        self._target = torch.from_numpy(images.target).to(device)
        self._reference = torch.from_numpy(images.reference).to(device)
        self.height, self.width = images.grid.shape
        everywhere = torch.ones((self.height, self.width), dtype=torch.bool, device=device)
        self._check_pixels = self._check_mask() if config.coregister != "global" else ~everywhere
        self._use_windows(min(config.window_px, max(16, min(self.height, self.width) // 3)), config.step_px)
        self._least_share = _LEAST_SHARE
        self._constant = Polynomial(0, self.height, self.width)
        self._null_limit: float | None = None
        self._warped: Warped | None = None
        self._warped_field: PixelField = np.zeros((2, self.height, self.width), np.float32)
        self._lit = everywhere
        # The refiner changes the reference, so its outline is taken now.
        self._target_hull, self._reference_hull = convex_outline(images.target[0]), convex_outline(images.reference[0])

    def _use_windows(self, window: int, step: int) -> None:
        step = min(step, window)
        self._step_px, self._window_px = step, window
        self._windows = Windows.hann(self.height, self.width, window, step, self._device)
        self._spline = Spline.over(self.height, self.width, self._knot_px(2.0 * step), self._grid)

    def _use_wider_windows(self) -> bool:
        """Go on with windows twice as wide that need as many usable pixels; False when the image is too small."""
        window = min(2 * self._window_px, min(self.height, self.width) * 2 // 3)
        if window < 1.5 * self._window_px:
            return False
        wider = window / self._window_px
        self._least_share /= wider**2
        self._use_windows(window, round(wider * self._step_px))
        return True

    def _knot_px(self, wanted: float) -> float:
        return max(wanted, max(self.height, self.width) / 36.0)

    @property
    def reach_px(self) -> float:
        """Distance from the points beyond which a field is extrapolated: two knots of the spline."""
        return 2.0 * max(self._spline.spacing)

    @property
    def cell_px(self) -> int:
        """Side of the cells whose pixels are kept for checking: large enough to match, small enough to be many."""
        wanted = np.sqrt(self.height * self.width * self._config.holdout / 80.0)
        return int(np.clip(wanted, 24, 48))

    def _check_mask(self) -> Tensor:
        every = max(2, round(1.0 / self._config.holdout))
        skip = 2 if every >= 4 else 1
        index = [
            np.searchsorted(box_edges(size, self.cell_px), np.arange(size), side="right") - 1
            for size in (self.height, self.width)
        ]
        cells = [np.arange(at[-1] + 1) for at in index]
        held = (cells[0][:, None] + skip * cells[1][None, :]) % every == 0
        return torch.from_numpy(held[index[0]][:, index[1]]).to(self._device)

    def run(self) -> Registration:
        """Run all stages that the images and the settings allow."""
        search = GlobalSearch(self._target, self._reference, self._margin, self._search_factor)
        peak, shift = search.peak()
        found = Registration(peak, shift)
        if not self.is_significant(peak):
            return found
        start = np.empty((2, self.height, self.width), dtype=np.float32)
        start[0], start[1] = shift
        if self._config.coregister != "global":
            start = self._coarse(search, shift, start)
        # The features are no longer needed, and the refiner is the largest user of memory.
        del search
        return self._refine(found, start)

    def is_significant(self, peak: GlobalPeak) -> bool:
        """Whether the global peak stands out enough to go on."""
        return peak.score >= self._config.min_peak_score and peak.ratio >= self._config.min_peak_ratio

    @property
    def _search_factor(self) -> int:
        """Large images are searched at half their resolution: they have pattern enough."""
        return 2 if min(self.height, self.width) >= _HALVED_FROM_PX else 1

    def _coarse(self, search: GlobalSearch, shift: tuple[float, float], start: PixelField) -> PixelField:
        """Follow distortions of several pixels with large windows, searched around the global shift."""
        points, side = search.coarse_points(shift)
        if points.size < _FEWEST_COARSE:
            return start
        spline = Spline.over(self.height, self.width, self._knot_px(side * 0.75), self._grid)
        return on_pixels(fit_fixed_smoothing(points, spline, smoothing=0.03).fitted, self.height, self.width)

    def _refine(self, found: Registration, field: PixelField) -> Registration:
        """Measure, fit, predict, measure again, until the field stands still."""
        fit_pixels = ~self._check_pixels
        give_back()
        # The refiner changes the reference in place, so the halved images are made first.
        halves = HalvedImages.of(self._target, self._reference) if self._search_factor == 2 else None
        refiner, half = run_both(
            partial(Refiner, self._target, self._reference, self._margin, background_px=_CAPTURE_PX),
            partial(self._at_half_resolution, halves, field, fit_pixels),
        )
        del self._target, self._reference, halves
        give_back()
        if half is not None and self._match(half, field, strict=False).points.size >= 2 * self._config.min_points:
            measured, few = half, False
        else:
            measured = refiner.measure(self._windows, self._on_device(field), fit_pixels, rounds=1)
            few = self._match(measured, field, strict=False).points.size < self._config.min_points
        if few and self._use_wider_windows():
            # Between scattered clouds a usual window holds too little land, but the scene as a whole does not.
            measured = refiner.measure(self._windows, self._on_device(field), fit_pixels, rounds=1)
        refiner.background_px = _SHARP_PX
        for _ in range(_PASSES):
            # Doubtful windows help to get near, but have no say in the result.
            match = self._match(measured, field, strict=False)
            if match.points.size < 4:
                return replace(found, match=match)
            field = self._warped_field = on_pixels(self._quick_fit(match.points), self.height, self.width)
            self._warped = warped = refiner.warp(self._on_device(field))
            measured, self._null_limit = run_both(
                partial(refiner.measure, self._windows, warped, fit_pixels),
                partial(self._null_correlation, refiner, warped, fit_pixels),
            )
            match = self._match(measured, field)
            if match.converged:
                break
        if match.points.size < 4:
            return replace(found, match=match)
        found = replace(found, match=match)
        boxes = not self._single_shift(match.points.size)
        if match.converged:
            # The field that is fitted now is so near that what else is looked at can be looked at beside it.
            found, seen = run_both(
                partial(self._with_field, found), partial(self._look, refiner, field, warped, boxes=boxes)
            )
        else:
            found = self._with_field(found)
            if found.choice is None:
                return found
            field = self._warped_field = on_pixels(found.choice.fitted, self.height, self.width)
            self._warped = warped = refiner.warp(self._on_device(field))
            seen = self._look(refiner, field, warped, boxes=boxes)
        return self._examined(replace(found, check=seen.check), refiner, seen)

    def _look(self, refiner: Refiner, field: PixelField, warped: Warped, *, boxes: bool) -> Seen:
        """Look at all that depends on where the reference lies and not on which field is fitted to it."""
        # What takes longest is begun first.
        layer, small, (lit, without_dark), check = run_all(
            partial(find_second_layer, refiner, warped, self._lit),
            lambda: first_boxes(refiner, warped, self._lit) if boxes else None,
            partial(self._look_at_lit, refiner, warped),
            partial(self._check, refiner, field, warped),
        )
        return Seen(check, lit, without_dark, small, layer)

    def _look_at_lit(self, refiner: Refiner, warped: Warped) -> tuple[Tensor | None, Match | None]:
        """Pixels that are not dark, and what they measure; None where hardly any is dark."""
        lit = lit_pixels(refiner, warped)
        if lit is None:
            return None, None
        return lit, self._match(
            refiner.measure(self._windows, warped, ~self._check_pixels & lit), self._warped_field
        )  # fmt: skip

    def _examined(self, found: Registration, refiner: Refiner, seen: Seen) -> Registration:
        """Look for what the field does not follow: finer displacement, and something that moved by itself."""
        found = self._without_shadow(found, refiner, seen)
        choice, warped = found.choice, self._warped
        if choice is None or warped is None:
            return found
        if seen.lit is not None and self._lit is not seen.lit and found.match is not None:
            sigma = float(np.median(found.match.points.sigma))
            found = replace(found, light_variance=light_variance(seen.lit, sigma))
        # Once dark ground is left out, the reference lies elsewhere than it was looked at.
        holds = self._lit is not seen.lit
        if not self._single_shift(choice.weight.size):
            boxes = seen.boxes if holds else None
            if boxes is None:
                boxes = first_boxes(refiner, warped, self._lit)
            fine = fit_finer(
                refiner, choice.fitted, self._grid, self._lit,
                boxes=boxes, beside=self._warped_field, relief=self._relief,
            )  # fmt: skip
            found = replace(found, fine=fine)
            if fine.fitted is not None:
                found, holds = replace(found, choice=replace(choice, fitted=fine.fitted)), False
                warped = refiner.warp(self._on_device(on_pixels(fine.fitted, self.height, self.width)))
        return replace(found, second_layer=seen.layer if holds else find_second_layer(refiner, warped, self._lit))

    def _without_shadow(self, found: Registration, refiner: Refiner, seen: Seen) -> Registration:
        """Match again without dark ground, where that says something else, and decide between both."""
        lit, match = seen.lit, seen.without_dark
        if found.choice is None or found.match is None or lit is None or match is None:
            return found
        allowed = ~self._check_pixels & lit
        points, fitted = found.match.points, found.choice.fitted
        if not is_biased(match.points, fitted.at(match.points.position), points, fitted.at(points.position)):
            return found
        for _ in range(_SHADOW_PASSES):
            if match.points.size < max(_FEWEST_COARSE, _LEAST_LIT * found.match.points.size):
                return found
            field = on_pixels(self._quick_fit(match.points), self.height, self.width)
            warped = refiner.warp(self._on_device(field))
            match = self._match(refiner.measure(self._windows, warped, allowed), field)
        if match.points.size < 4:
            return found
        again = self._with_field(replace(found, match=match))
        if again.choice is None:
            return found
        before = on_pixels(fitted, self.height, self.width)
        after = on_pixels(again.choice.fitted, self.height, self.width)
        difference = float(np.sqrt(((after - before) ** 2).sum(axis=0).mean()))
        errors = (float(np.sqrt(2.0 * one.over_image.mean())) for one in (found, again))
        bias = ShadowBias.of(difference, *errors)
        if bias is None:
            return found
        if not bias.corrected:
            return replace(found, shadow=bias, over_image=found.over_image + bias.variance)
        self._lit, self._warped_field, self._warped = lit, after, refiner.warp(self._on_device(after))
        check = self._check(refiner, after, self._warped)
        return replace(again, shadow=bias, check=check, over_image=again.over_image + bias.variance)

    def _at_half_resolution(
        self, halves: HalvedImages | None, field: PixelField, allowed: Tensor
    ) -> Measurement | None:
        """Measure with the same windows on halved images: what is near enough needs no more at first."""
        if halves is None:
            return None
        return halves.measure(
            self._windows, (self._window_px, self._step_px), self._on_device(field), allowed,
            margin_px=self._margin, background_px=_CAPTURE_PX,
        )  # fmt: skip

    def _null_correlation(self, refiner: Refiner, warped: Warped, allowed: Tensor) -> float:
        """Correlation that windows reach at a wrong position: those that fit no better measure nothing."""
        if self._null_limit is not None:
            return self._null_limit
        rows, windows = slice(0, self.height), self._windows
        if self._search_factor == 2:
            # A large image has windows enough in the middle half of its rows.
            rows = slice(self.height // 4, self.height - self.height // 4)
            windows = Windows.hann(rows.stop - rows.start, self.width, self._window_px, self._step_px, self._device)
        wrong = warped.cut(rows).moved(*_MISALIGNED_PX)
        correlation, share = refiner.resemblance(windows, wrong, allowed[rows], top=rows.start)
        seen = correlation[share > self._least_share]
        return float(np.quantile(seen, _NULL_QUANTILE)) if seen.size else 0.0

    def _single_shift(self, points: int) -> bool:
        return self._config.coregister == "global" or points < self._config.min_points

    def _with_field(self, found: Registration) -> Registration:
        """Choose the field and determine how wrong it is where."""
        if found.match is None:
            return found
        points = found.match.points
        single = self._single_shift(points.size)
        choice = fit_shift(points, self._constant) if single else choose_field(points, self._spline)
        uncertainty = FieldUncertainty.of(choice.fitted, points, choice.weight)
        return replace(
            found,
            choice=choice,
            uncertainty=uncertainty,
            over_image=uncertainty.variance_at(self.seen_area(choice.fitted)),
        )

    def _quick_fit(self, points: Points) -> Fitted:
        if self._single_shift(points.size):
            return fit_shift(points, self._constant).fitted
        return fit_fixed_smoothing(points, self._spline).fitted

    def seen_area(self, fitted: Fitted) -> FloatArray:
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
        measured = refiner.measure(boxes, warped or self._on_device(field), self._check_pixels & self._lit)
        # Scatter must not decide: it is larger where the field is wrong. Cells that resemble nothing measure nothing.
        match = self._match(measured, field, least_share=_LEAST_CHECKED_SHARE, strict=False)
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
        good &= sigma < (_MOST_SIGMA_PX if strict else _LOOSE_SIGMA_PX)
        if strict or least_share is not None:
            good &= measured.correlation > max(_LEAST_CORRELATION, self._null_limit or 0.0)
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
