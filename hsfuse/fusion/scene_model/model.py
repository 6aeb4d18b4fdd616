"""The scene model: everything that later steps may know about a pair, estimated once on its low-resolution strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import NO_OFFSET, Offset, Psf
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.calibration import all_recalibrated, calibrate
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix, Subspace, gather, signal_subspace
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.scene_model.alignment import align_strips
from hsfuse.fusion.scene_model.contradiction import Contradiction
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.fusion.scene_model.relation import relate
from hsfuse.fusion.scene_model.ridge import ridge_synthesis
from hsfuse.parallel import do_all, parts_of, side_by_side, together

MAX_RANK = 32
"""Components of the HSI at most."""
_PIXELS_PER_BAND = 1.2
_MOST_SAMPLES = 40_000
"""Low-resolution pixels that the regression is fitted on."""
_PARTS = 8
"""Of the rows, that are worked on side by side."""


@dataclass(frozen=True)
class GuideSynthesis:
    """How the guide follows from the HSI's components.

    Attributes
    ----------
    matrix, mean
        MSI bands as the HSI shows them: ``matrix @ components + mean``; (msi band, component), (msi band,).
    uncertainty
        Standard errors of ``matrix``, its shape.
    residual_variance
        What it leaves of each MSI band at low resolution, shape (msi band,).
    jitter_px
        Standard deviation of a local displacement that would explain how the residual grows with the gradient, HSI
        pixels: what co-registration and a single PSF leave.
    foreign_share
        Share of the pixels that were left out because guide and HSI contradict each other.
    """

    matrix: FloatMatrix
    mean: FloatMatrix
    uncertainty: FloatMatrix
    residual_variance: FloatMatrix
    jitter_px: float
    foreign_share: float


@dataclass(frozen=True)
class SceneModel:
    """What is known about a pair.

    Attributes
    ----------
    space
        Signal subspace of the HSI, whitened by its noise.
    synthesis
        How the guide follows from the subspace's components.
    guide_noise
        Noise of the guide at its own resolution, with what its corrections left, shape (msi band,); zeros where it
        could not be measured.
    psf, offset_px
        Blur of the HSI relative to the guide and its displacement (row, col), HSI pixels.
    alignment_source
        ``pair``, ``small pair`` or ``given``: where blur and displacement come from.
    ratio
        HSI pixel size over MSI pixel size.
    srf_known
        Whether the responses of the guide were known.
    pixels
        Valid HSI pixels that the HSI's noise and signal subspace were estimated from.
    """

    space: Subspace
    synthesis: GuideSynthesis
    guide_noise: FloatMatrix
    psf: Psf
    offset_px: Offset
    alignment_source: str
    ratio: int
    srf_known: bool
    pixels: int

    @property
    def noise_known(self) -> bool:
        """Whether the noise of both images could be measured: from fewer pixels than bands none can."""
        return self.pixels >= _PIXELS_PER_BAND * len(self.space.noise) and bool((self.guide_noise > 0).any())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        guide = self.synthesis
        return {
            "rank": self.space.rank,
            "psf_fwhm_px": round(self.psf.fwhm_px, 4),
            "offset_px": [round(v, 4) for v in self.offset_px],
            "alignment_source": self.alignment_source,
            "srf_known": self.srf_known,
            "hsi_noise": round(float(np.sqrt((self.space.noise**2).mean())), 6),
            "guide_noise": [round(float(v), 6) for v in self.guide_noise],
            "guide_misfit": [round(float(v), 6) for v in np.sqrt(guide.residual_variance)],
            "synthesis_error": round(float(np.sqrt((guide.uncertainty**2).sum(axis=1)).max()), 6),
            "jitter_px": round(guide.jitter_px, 4),
            "foreign_share": round(guide.foreign_share, 4),
        }


def estimate_scene_model(
    strips: Sequence[LowResolutionStrip], context: FusionContext, *, calibration: Calibration | None = None
) -> tuple[SceneModel, list[LowResolutionStrip]]:
    """Estimate the model; also return the strips with the MSI as blur and shift really make it.

    Parameters
    ----------
    strips
        The scene at low resolution.
    context
        Facts about the pair.
    calibration
        Blur and shift where a method has found them already; searched when None and ``context.calibrate``.

    Raises
    ------
    OverlapError
        Too few pixels are valid in both images.
    """
    source = "given" if calibration is None else "pair"
    if calibration is None and context.calibrate:
        calibration = calibrate(strips, context)
        source = "given" if calibration is None else "pair"
    elif calibration is None and context.offset_px != NO_OFFSET:
        calibration = Calibration(context.psf, context.offset_px)
    if calibration is not None:
        strips = all_recalibrated(strips, calibration, context.ratio)
    statistics = gather(strips)
    space = signal_subspace(statistics, max_rank=MAX_RANK)
    fine = [strip.fine for strip in strips if strip.fine is not None]
    synthesis, samples = together(
        partial(_relate, strips, space, context),
        lambda: list(side_by_side(_guide_sample, fine, context.threads)),
        threads=context.threads,
    )
    if calibration is None and context.calibrate:
        calibration = align_strips(_stacked(strips, space, context), strips, context.ratio, context.psf)
        if calibration is not None:
            source = "small pair"
            strips = all_recalibrated(strips, calibration, context.ratio)
            synthesis = _relate(strips, space, context)
    noise = context.combined_noise
    if noise is None and samples:
        noise = guide_noise(samples)
    noise = context.guide_noise if noise is None else noise
    if noise is not None and context.guide_error is not None:
        # Like noise it is in the guide's detail and in none of the HSI's.
        noise = np.sqrt(noise**2 + context.guide_error)
    psf, offset = (context.psf, NO_OFFSET) if calibration is None else (calibration.psf, calibration.offset_px)
    model = SceneModel(
        space, synthesis, np.zeros(len(synthesis.mean)) if noise is None else noise, psf, offset, source,
        context.ratio, context.srf is not None, statistics.hsi_count,
    )  # fmt: skip
    return model, list(strips)


def _guide_sample(fine: NDArray[np.float32]) -> GuideSample:
    return GuideSample.take(np.nan_to_num(fine), np.asarray(np.isfinite(fine).all(axis=0)))


def _relate(strips: Sequence[LowResolutionStrip], space: Subspace, context: FusionContext) -> GuideSynthesis:
    """Regress the guide on the components of pixels where neither contradicts the other."""
    pair = _stacked(strips, space, context)
    msi = np.concatenate([strip.msi for strip in strips], axis=1).astype(np.float64)
    valid = pair.valid
    trusted, foreign = valid, 0.0
    if context.srf is not None:
        contradiction = Contradiction.find(relate(pair, msi, threads=context.threads), msi, valid)
        foreign = float(contradiction.candidates[valid].mean())
        kept = valid & ~contradiction.candidates
        trusted = kept if kept.sum() >= MIN_PIXELS else valid
    step = max(int(trusted.sum()) // _MOST_SAMPLES, 1)
    u, y = (np.asarray(image[:, trusted][:, ::step], np.float64) for image in (pair.components, msi))
    responses = None if context.srf is None else context.srf @ space.back
    synthesis, mean, uncertainty = ridge_synthesis(u, y, pair.level, responses)
    left = (y - synthesis @ u - mean[:, None]).var(axis=1)
    seen = np.empty(msi.shape)

    def show(rows: slice) -> None:
        seen[:, rows] = np.tensordot(synthesis, pair.components[:, rows], axes=1) + mean[:, None, None]

    do_all(show, parts_of(len(valid), _PARTS), context.threads)
    jitter = _jitter_px(seen, msi, trusted, context.threads)
    return GuideSynthesis(synthesis, mean, uncertainty, left, jitter, foreign)


def _stacked(strips: Sequence[LowResolutionStrip], space: Subspace, context: FusionContext) -> CoarsePair:
    """Return the HSI's side of the strips, one above the other."""

    def look(strip: LowResolutionStrip) -> CoarsePair:
        return coarse_pair(strip.hsi, np.asarray(strip.valid, bool), space, context.srf)

    parts = list(side_by_side(look, strips, context.threads))
    predicted = [part.predicted for part in parts if part.predicted is not None]
    counts = [int(part.valid.sum()) for part in parts]
    level = sum(count * part.level for count, part in zip(counts, parts, strict=True)) / max(sum(counts), 1)
    return CoarsePair(
        np.concatenate([part.components for part in parts], axis=1),
        np.concatenate(predicted, axis=1) if predicted else None,
        np.asarray(level, np.float64), np.concatenate([part.valid for part in parts]),
    )  # fmt: skip


def _jitter_px(seen: FloatMatrix, msi: FloatMatrix, trusted: NDArray[np.bool_], threads: int) -> float:
    """Regress the squared residual on the squared gradient of what the HSI shows, all bands in units of their floor."""
    inside = np.asarray(binary_erosion(trusted, np.ones((3, 3), bool)), dtype=np.bool_)
    if inside.sum() < MIN_PIXELS:
        return 0.0

    def look(pair: tuple[FloatMatrix, FloatMatrix]) -> tuple[float, float] | None:
        image, shown = pair
        down, across = np.gradient(shown)
        steep = np.asarray(down**2 + across**2)[inside]
        square = ((image - shown) ** 2)[inside]
        # Halves of the pixels, steep and even ones: robust against the few that a regression would follow.
        even = steep < np.median(steep)
        rise = float(square[~even].mean() - square[even].mean())
        run = float(steep[~even].mean() - steep[even].mean())
        weight = run / max(float(square[even].mean()), 1e-20)
        return (weight * rise / run, weight) if run > 0 else None

    slope_sum, weight_sum = 0.0, 0.0
    for slope, weight in filter(None, side_by_side(look, zip(msi, seen, strict=True), threads)):
        slope_sum, weight_sum = slope_sum + slope, weight_sum + weight
    return float(np.sqrt(max(slope_sum / weight_sum, 0.0))) if weight_sum else 0.0


def coarse_pair(
    hsi: NDArray[np.floating], valid: NDArray[np.bool_], space: Subspace, srf: FloatMatrix | None
) -> CoarsePair:
    """Return the HSI's side of a relation from an HSI (band, row, col)."""
    centred = hsi - space.mean.astype(np.float32)[:, None, None]
    components = np.tensordot(space.forward.astype(np.float32), centred, axes=1)
    power = float((centred[:, valid] ** 2).mean()) if valid.any() else 0.0
    level = power * (space.forward @ space.forward.T)
    return CoarsePair(components, None if srf is None else np.tensordot(srf, hsi, axes=1), level, valid)
