"""How far a sensor's SWIR detector looks beside its VNIR detector, and how sure that is.

The field of a co-registration is found on visible and near-infrared bands. With it, the SWIR bands are compared with
those of the reference (B11 and B12 of Sentinel-2); what is left is the misalignment of the two detectors. Without
such bands in the reference, the sensor's own VNIR bands serve: two detectors see the same land at the same moment, and
a local linear mixture of VNIR bands resembles a SWIR band well enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from hsfuse.coregister.channels import ChannelPair, MultispectralBands, WeightedBands
from hsfuse.coregister.lowpass import blur_sigma_m, prepare_reference
from hsfuse.coregister.measurement import Measurement
from hsfuse.coregister.refine import Refiner
from hsfuse.coregister.result import CoregistrationResult, SwirShift
from hsfuse.coregister.threads import map_in_halves
from hsfuse.coregister.windows import Windows
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.masks import dilate
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.spectral import SpectralResponse, srf_coverage, srf_weights

FloatArray = NDArray[np.float64]

_SWIR_NM = (1500.0, 2350.0)
_SWIR = (SpectralResponse.flat_top("B11", 1612.0, 92.0), SpectralResponse.flat_top("B12", 2194.0, 180.0))
_VNIR = (
    SpectralResponse.flat_top("B03", 560.0, 36.0),
    SpectralResponse.flat_top("B04", 665.0, 31.0),
    SpectralResponse.flat_top("B08", 833.0, 106.0),
)
_LEAST_COVERAGE, _LEAST_BANDS = 0.6, 2
_MOST_BANDS = 6
"""Bands read for a channel: more would not make the position more certain."""
_BRIGHT, _GROWTH_PX = 0.40, 2
_VISIBLE_NM = (560.0, 665.0)
_MARGIN_PX = 4
_STRIP_ROWS, _ENOUGH_PX = 128, 250_000
"""Height of the strips that are looked at, and how many pixels make one number certain enough."""
_CELL_PX = (24, 48)
"""Shortest and longest side of the windows: large enough to match, small enough to be many."""
_CAPTURE_PX, _SHARP_PX = 5.0, 1.5
_PASSES, _CONVERGED_PX, _FARTHEST_PX = 8, 0.01, 3.0
_MOST_SIGMA_PX, _LOOSE_SIGMA_PX, _LEAST_SHARE, _LEAST_CORRELATION = 0.35, 1.5, 0.3, 0.3
_LEAST_WINDOWS = 4
_AROUND_PX, _USUAL_MISFIT_PX = 32.0, 0.1
_NOISE_PX = 0.03
"""Windows differ by this much for reasons that their own standard error does not know."""
_METHOD_PX = {False: 0.01, True: 0.03}
"""Standard error of the method itself with a reference and with the product's own VNIR bands (simulated scenes)."""
_TUKEY, _RAYLEIGH_MEDIAN = 5.0, 1.1774


def swir_names(msi: MultispectralProduct) -> tuple[str, ...]:
    """Names of an image's bands in the SWIR windows; empty when there are none, or responses are unknown."""
    responses = msi.responses or ()
    return tuple(
        name
        for name, response in zip(msi.band_names, responses, strict=False)
        if _SWIR_NM[0] < response.centre_nm < _SWIR_NM[1]
    )


def measure_swir(
    hsi: HyperspectralProduct,
    msi: MultispectralProduct | None,
    aligned: CoregistrationResult | None = None,
    *,
    psf: Psf | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> SwirShift | None:
    """Measure the misalignment of the SWIR bands.

    Parameters
    ----------
    hsi
        Product whose two detectors are compared.
    msi
        Reference; its bands in the SWIR windows are used when it has any. None: the product's own VNIR bands.
    aligned
        Co-registration of the VNIR bands with the reference. What its tie points say beyond its field is taken into
        account, so that a field that is too stiff is not mistaken for a misalignment of the detectors.
    psf
        Blur of the HSI relative to the reference.
    progress
        Where to show progress.
    device
        Torch device.

    Returns
    -------
    SwirShift or None
        None when the product has no SWIR bands or too little was seen in common.
    """
    swir = _weighted(hsi, _swir_responses(msi))
    pair, own = (None, False) if swir is None else _pair(hsi, msi, swir)
    if pair is None:
        return None
    if own or aligned is None:
        aligned = CoregistrationResult.off()
    sigma_m = blur_sigma_m(psf or Psf(1.25), hsi.grid.pixel_m, 1)
    some, every = _strips(hsi.grid)
    with (progress or SilentProgress()).stage("compare SWIR with VNIR") as stage:
        found = None
        for strips in (some, every):
            prepare = partial(_part, pair, hsi, aligned=aligned, sigma_m=sigma_m, device=torch.device(device))
            found = _iterate([part for part in map_in_halves(prepare, strips) if part is not None])
            stage.advance(1.0 if strips is some else 0.0)
            if found is not None or len(some) == len(every):
                break
    if found is None:
        return None
    pixel_m = hsi.grid.pixel_m
    return SwirShift(
        dx_m=float(found.shift[1] * hsi.grid.transform.a),
        dy_m=float(found.shift[0] * hsi.grid.transform.e),
        sigma_m=math.hypot(found.sigma, _METHOD_PX[own]) * pixel_m,
        spread_m=found.spread * pixel_m,
        windows=found.count,
        correlation=found.correlation,
        reference="VNIR bands of the same product" if own else ", ".join(pair.reference.names),
    )


def _strips(grid: Grid) -> tuple[list[Slice2D], list[Slice2D]]:
    """Strips of rows that are enough, spread over the scene, and those that cover it all."""
    count = max(1, round(grid.height / _STRIP_ROWS))
    edges = np.linspace(0, grid.height, count + 1).round().astype(int)
    every = [Slice2D(int(a), int(b), 0, grid.width) for a, b in pairwise(edges)]
    enough = min(count, max(1, round(_ENOUGH_PX / (_STRIP_ROWS * grid.width))))
    middle = (np.arange(enough) + 0.5) * count / enough
    return [every[int(i)] for i in middle], every


def _swir_responses(msi: MultispectralProduct | None) -> tuple[SpectralResponse, ...]:
    names = swir_names(msi) if msi is not None else ()
    if msi is None or msi.responses is None or not names:
        return _SWIR
    return tuple(r for name, r in zip(msi.band_names, msi.responses, strict=True) if name in names)


def _weighted(hsi: HyperspectralProduct, responses: tuple[SpectralResponse, ...]) -> WeightedBands | None:
    """Channels that the product's bands cover, each from a handful of bands."""
    covered = [r for r in responses if srf_coverage(hsi.bands, r) >= _LEAST_COVERAGE]
    if not covered:
        return None
    weights = srf_weights(hsi.bands, covered) * hsi.bands.good
    for row in weights:
        index = np.flatnonzero(row > 0.1 * row.max(initial=1e-9))
        if index.size > _MOST_BANDS:
            kept = index[np.linspace(0, index.size - 1, _MOST_BANDS).round().astype(int)]
            row[np.setdiff1d(np.arange(row.size), kept)] = 0.0
    total = weights.sum(axis=1)
    if not total.any():
        return None
    weights = weights[total > 0] / total[total > 0, None]
    used = np.flatnonzero(weights.any(axis=0))
    names = tuple(r.name for r, keep in zip(covered, total > 0, strict=True) if keep)
    return WeightedBands(hsi, names, used, weights[:, used])


def _pair(
    hsi: HyperspectralProduct, msi: MultispectralProduct | None, swir: WeightedBands
) -> tuple[ChannelPair | None, bool]:
    """What the SWIR bands are compared with, and whether that is the product itself."""
    if msi is not None:
        index = tuple(msi.band_names.index(name) for name in swir_names(msi) if name in swir.names)
        if index:
            names = tuple(msi.band_names[i] for i in index)
            return ChannelPair(swir, MultispectralBands(msi, names, index)), False
    vnir = _weighted(hsi, _VNIR)
    if vnir is None or len(vnir.names) < _LEAST_BANDS:
        return None, True
    return ChannelPair(swir, vnir), True


@dataclass(frozen=True)
class _Part:
    """A strip, ready to be measured: windows, displacement of the field in pixels (row, col), what it lacks."""

    refiner: Refiner
    windows: Windows
    everywhere: torch.Tensor
    base: torch.Tensor
    misfit: FloatArray


@dataclass(frozen=True)
class _Found:
    """Shift (row, col), its standard error and its variation in pixels, number of windows, median correlation."""

    shift: FloatArray
    sigma: float
    spread: float
    count: int
    correlation: float


def _part(
    pair: ChannelPair,
    hsi: HyperspectralProduct,
    rows: Slice2D,
    aligned: CoregistrationResult,
    sigma_m: float,
    device: torch.device,
) -> _Part | None:  # fmt: skip
    target = pair.target.read(rows)
    visible = hsi.read(rows, np.unique(hsi.bands.nearest(_VISIBLE_NM)))
    with np.errstate(invalid="ignore"):
        bright = np.all(visible > _BRIGHT, axis=0)
    # Clouds move between the exposures of the two detectors.
    target[:, dilate(bright, _GROWTH_PX)] = np.nan
    grid = hsi.grid.crop(rows)
    dx, dy = aligned.field.on_grid(grid).astype(np.float64)
    base = np.stack([dy / grid.transform.e, dx / grid.transform.a])
    margin = math.ceil(np.abs(base).max() + _FARTHEST_PX) + _MARGIN_PX
    reference = pair.reference
    try:
        with SilentProgress().stage("") as silent:
            seen = prepare_reference(
                reference.read, reference.grid, len(reference.names), grid, margin, sigma_m=sigma_m, stage=silent
            )
    except OverlapError:
        return None
    refiner = Refiner(torch.from_numpy(target).to(device), torch.from_numpy(seen).to(device), margin)
    side = round(float(np.clip(math.sqrt(hsi.grid.height * hsi.grid.width / 25.0), *_CELL_PX)))
    windows = Windows.boxes(grid.height, grid.width, side, device)
    everywhere = torch.ones(grid.shape, dtype=torch.bool, device=device)
    centres = np.stack(np.meshgrid(windows.rows, windows.cols, indexing="ij"), axis=-1).reshape(-1, 2)
    misfit = _misfit(aligned, grid, centres)
    return _Part(refiner, windows, everywhere, torch.from_numpy(base).to(device), misfit)


def _misfit(aligned: CoregistrationResult, grid: Grid, centres: FloatArray) -> FloatArray:
    """What tie points around some pixel positions measured beyond the field, in pixels, shape (position, 2)."""
    points = aligned.tie_points
    dx, dy = aligned.field.at(points.x, points.y)
    residual = np.stack([(points.dy_m - dy) / grid.transform.e, (points.dx_m - dx) / grid.transform.a], axis=1)
    position = np.stack(grid.rowcol(points.x, points.y), axis=1)
    weight = points.used / ((points.sigma_m / grid.pixel_m) ** 2 + _NOISE_PX**2)
    square = ((centres[:, None, :] - position[None, :, :]) ** 2).sum(axis=2)
    near = np.exp(-0.5 * square / _AROUND_PX**2) * weight
    return np.asarray(near @ residual / (near.sum(axis=1, keepdims=True) + _USUAL_MISFIT_PX**-2))


def _iterate(parts: list[_Part]) -> _Found | None:
    """Measure, move, measure again, until the shift stands still; None when it does not, or is too far."""
    shift: FloatArray = np.zeros(2)
    before: FloatArray | None = None
    for number in range(_PASSES if parts else 0):
        background_px = _CAPTURE_PX if number == 0 else _SHARP_PX
        measured = map_in_halves(partial(_measured, shift=shift, background_px=background_px), parts)
        # What has not been aligned yet looks like noise.
        found = _combine(
            measured, np.concatenate([part.misfit for part in parts]), _MOST_SIGMA_PX if number > 1 else _LOOSE_SIGMA_PX
        )
        if found is None:
            return None
        step = found.shift
        if number > 1 and np.abs(step).max() < max(_CONVERGED_PX, 0.3 * found.sigma):
            return replace(found, shift=shift + step)
        factor = _extrapolation_factor(step, before)
        before = step if number > 0 and factor == 1.0 else None
        shift = shift + factor * step
        if np.abs(shift).max() > _FARTHEST_PX:
            return None
    return None


def _measured(part: _Part, shift: FloatArray, background_px: float) -> Measurement:
    part.refiner.background_px = background_px
    moved = part.base + torch.from_numpy(shift).to(part.base.device)[:, None, None]
    return part.refiner.measure(part.windows, moved, part.everywhere)


def _extrapolation_factor(step: FloatArray, before: FloatArray | None) -> float:
    """Factor to where a sequence of steps leads that shrink by the same ratio (noisy references shorten each one)."""
    if before is None:
        return 1.0
    ratio = float(step @ before) / float(before @ before)
    return 1.0 / (1.0 - min(ratio, 0.75)) if ratio > 0.1 else 1.0


def _combine(measured: Sequence[Measurement], misfit: FloatArray, most_sigma_px: float) -> _Found | None:
    """Robust weighted mean of the windows and what it is worth; None when too few of them agree."""

    def column(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name).ravel() for part in measured])

    value = np.stack([column("d_row"), column("d_col")], axis=1)
    sigma, share, correlation = np.sqrt(column("variance")), column("share"), column("correlation")
    good = (share > _LEAST_SHARE) & (sigma > 0) & (sigma < most_sigma_px) & (correlation > _LEAST_CORRELATION)
    good &= np.linalg.norm(value, axis=1) < _FARTHEST_PX
    if good.sum() < _LEAST_WINDOWS:
        return None
    value, sigma = (value - misfit)[good], sigma[good]
    own = np.hypot(sigma, _NOISE_PX)
    mean: FloatArray = np.median(value, axis=0)
    for _ in range(20):
        distance = np.linalg.norm(value - mean, axis=1) / own
        limit = _TUKEY * max(1.0, float(np.median(distance)) / _RAYLEIGH_MEDIAN)
        weight = np.where(distance < limit, (1.0 - (distance / limit) ** 2) ** 2, 0.0) / own**2
        before, mean = mean, weight @ value / weight.sum()
        if np.abs(mean - before).max() < 1e-4:
            break
    kept = weight > 0.2 / own**2
    count = int(kept.sum())
    if count < max(_LEAST_WINDOWS, 0.4 * own.size):
        return None
    weight = np.where(kept, weight, 0.0)
    square = (value - mean) ** 2
    error = math.sqrt(float((weight**2 @ square).mean()) * count / (count - 1.0)) / float(weight.sum())
    excess = float(square[kept].mean() - (sigma[kept] ** 2).mean())
    return _Found(mean, error, math.sqrt(max(excess, 0.0)), count, float(np.median(correlation[good][kept])))
