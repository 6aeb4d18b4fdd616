"""Which bands a scene's own evidence speaks against, and how good each band is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.evidence import BandStatistics
from hsfuse.band_selection.windows import SpectralWindow, WindowKind
from hsfuse.spectral import BandTable

FloatArray = NDArray[np.float64]

_HALF_SCORE_SNR = 25.0
_HALF_SCORE_STRIPE = 0.02
_WINDOW_FACTOR: dict[WindowKind, float] = {"shallow": 0.6, "edge": 0.4, "deep": 0.05}
_BAD_FACTOR = 0.01
"""Lowers the score of bands that the producer marks: the last ones to be re-admitted."""


@dataclass(frozen=True)
class Limits:
    """When a band is vetoed.

    Shares are compared with the median of the same detector's bands outside the fixed windows: a lake makes
    *every* short-wave band negative here and there, which says nothing against one of them.

    Attributes
    ----------
    error_excess, zero_excess, negative_excess
        Share above the detector's median.
    any_share
        Share that is too much whatever the median.
    snr_ratio, snr_plenty, snr_floor
        SNR below both this share of the detector's median and a value that is plenty for any use; or below the
        floor, whatever the median.
    stripe_ratio, stripe_floor
        Stripes above both this multiple of the detector's median and this share of the signal.
    correlation_floor, correlation_drop
        Correlation below both this value and the detector's median less this drop.
    """

    error_excess: float = 0.10
    zero_excess: float = 0.05
    negative_excess: float = 0.20
    any_share: float = 0.90
    snr_ratio: float = 0.15
    snr_plenty: float = 25.0
    snr_floor: float = 2.0
    stripe_ratio: float = 4.0
    stripe_floor: float = 0.05
    correlation_floor: float = 0.6
    correlation_drop: float = 0.2


def scene_vetoes(bands: BandTable, statistics: BandStatistics, usual: NDArray[np.bool_], limits: Limits) -> list[str]:
    """Return the reason against each band, empty where there is none.

    Parameters
    ----------
    bands, statistics
        Bands and what was measured.
    usual
        Bands outside the fixed windows, from which medians are taken, shape (band,).
    limits
        When a band is vetoed.
    """
    group = np.array(bands.detector)
    median = {
        name: _group_median(getattr(statistics, name), group, usual)
        for name in ("error_fraction", "zero_fraction", "negative_fraction", "snr", "stripe", "correlation")
    }
    reasons: list[list[str]] = [[] for _ in range(len(bands))]

    def veto(wrong: NDArray[np.bool_], text: str, values: FloatArray) -> None:
        for index in np.flatnonzero(wrong):
            reasons[index].append(text.format(values[index]))

    for name, excess, text in (
        ("error_fraction", limits.error_excess, "{:.0%} of samples flagged invalid or saturated"),
        ("zero_fraction", limits.zero_excess, "{:.0%} of samples without data"),
        ("negative_fraction", limits.negative_excess, "{:.0%} of samples negative"),
    ):
        share: FloatArray = getattr(statistics, name)
        veto((share > median[name] + excess) | (share > limits.any_share), text, share)
    snr = np.nan_to_num(statistics.snr, nan=np.inf)
    poor = (snr < limits.snr_ratio * median["snr"]) & (snr < limits.snr_plenty)
    veto(poor | (snr < limits.snr_floor), "SNR only {:.1f}", snr)
    stripe = np.nan_to_num(statistics.stripe, nan=0.0)
    veto(
        (stripe > limits.stripe_ratio * median["stripe"]) & (stripe > limits.stripe_floor),
        "column stripes of {:.0%} of the signal", stripe,
    )  # fmt: skip
    r = statistics.correlation
    alone = (r < limits.correlation_floor) & (r < median["correlation"] - limits.correlation_drop)
    # A band without data correlates with nothing; saying so would repeat the first reason.
    veto(alone & (statistics.zero_fraction <= limits.any_share), "correlation with neighbours only {:.2f}", r)
    return ["; ".join(texts) for texts in reasons]


def quality_scores(
    statistics: BandStatistics, windows: list[SpectralWindow | None], good: NDArray[np.bool_]
) -> FloatArray:
    """Quality of each band from 0 to 1.

    The product of five terms that are 1 for a perfect band (SNR, share of sound samples, stripes, correlation),
    lowered for bands in fixed windows and, most of all, for bands that the producer itself marks as bad.
    """
    snr = np.nan_to_num(statistics.snr, nan=0.0, posinf=1e6)
    snr = np.maximum(snr, 0.0)
    stripe = np.nan_to_num(statistics.stripe, nan=0.0, posinf=1e6)
    sound = (
        (1.0 - statistics.error_fraction)
        * (1.0 - statistics.zero_fraction)
        * (1.0 - np.minimum(statistics.negative_fraction, 1.0))
    )
    kind = np.array([_WINDOW_FACTOR[window.kind] if window else 1.0 for window in windows])
    clean = np.clip(statistics.correlation, 0.0, 1.0) / (1.0 + stripe / _HALF_SCORE_STRIPE)
    score: FloatArray = snr / (snr + _HALF_SCORE_SNR) * sound * clean * kind * np.where(good, 1.0, _BAD_FACTOR)
    return score


def _group_median(values: FloatArray, group: NDArray[np.str_], usual: NDArray[np.bool_]) -> FloatArray:
    """Median of the usual bands of the same detector, spread to all its bands; 0 where unknown."""
    result = np.zeros(values.size)
    for name in np.unique(group):
        members = group == name
        known = values[members & usual & np.isfinite(values)]
        if known.size:
            result[members] = np.median(known)
    return result
