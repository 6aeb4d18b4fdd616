"""Metrics against a known reference, as entries of the registry; in the order and spelling of the literature."""

from __future__ import annotations

from hsfuse.metrics.evidence import Evidence, Kind
from hsfuse.metrics.metric import Metric, MetricText
from hsfuse.metrics.reference import cc, ergas, psnr, q2n, rmse, sam_deg, ssim

_NEEDS: frozenset[Kind] = frozenset({"reference"})


def _psnr(evidence: Evidence) -> float:
    return psnr(evidence.need_reference(), evidence.fused, evidence.valid)


def _psnr_global(evidence: Evidence) -> float:
    return psnr(evidence.need_reference(), evidence.fused, evidence.valid, peak="global")


def _sam(evidence: Evidence) -> float:
    return sam_deg(evidence.need_reference(), evidence.fused, evidence.valid)


def _ergas(evidence: Evidence) -> float:
    return ergas(evidence.need_reference(), evidence.fused, evidence.ratio, evidence.valid)


def _cc(evidence: Evidence) -> float:
    return cc(evidence.need_reference(), evidence.fused, evidence.valid)


def _rmse(evidence: Evidence) -> float:
    return rmse(evidence.need_reference(), evidence.fused, evidence.valid)


def _ssim(evidence: Evidence) -> float:
    return ssim(evidence.need_reference(), evidence.fused, evidence.valid)


def _q2n(evidence: Evidence) -> float:
    return q2n(evidence.need_reference(), evidence.fused, evidence.valid)


PSNR = Metric(
    "PSNR", _psnr, _NEEDS,
    MetricText("PSNR", "Peak signal to noise ratio, mean over bands, peak = largest value of each band.",
               "higher", " dB", 2),
    direction=1, rank=10,
)  # fmt: skip
SAM = Metric(
    "SAM", _sam, _NEEDS, MetricText("SAM", "Mean spectral angle against the reference.", "lower, ideal 0", "°"),
    direction=-1, rank=20,
)  # fmt: skip
ERGAS = Metric(
    "ERGAS", _ergas, _NEEDS, MetricText("ERGAS", "Relative error over all bands (100 / ratio).", "lower, ideal 0"),
    direction=-1, rank=30,
)  # fmt: skip
CC = Metric(
    "CC", _cc, _NEEDS,
    MetricText("CC", "Mean correlation of bands with the reference.", "higher, ideal 1", decimals=4),
    direction=1, rank=40,
)  # fmt: skip
RMSE = Metric(
    "RMSE", _rmse, _NEEDS, MetricText("RMSE", "Root mean square error.", "lower, ideal 0", " reflectance", 5),
    direction=-1, rank=50,
)  # fmt: skip
PSNR_GLOBAL = Metric(
    "PSNR_global", _psnr_global, _NEEDS,
    MetricText("PSNR, global peak", "Peak signal to noise ratio with one peak for the cube.", "higher", " dB", 2),
    direction=1, rank=60,
)  # fmt: skip
SSIM = Metric(
    "SSIM", _ssim, _NEEDS,
    MetricText("SSIM", "Structural similarity, mean over bands.", "higher, ideal 1", decimals=4),
    direction=1, rank=70,
)  # fmt: skip
Q2N = Metric(
    "Q2n", _q2n, _NEEDS,
    MetricText("Q2n", "Hypercomplex quality index over all bands jointly.", "higher, ideal 1", decimals=4),
    direction=1, rank=80,
)  # fmt: skip
