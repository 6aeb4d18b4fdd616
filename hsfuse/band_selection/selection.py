"""Which bands go into the cube, with the reason for each that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.criteria import Limits, quality_scores, scene_vetoes
from hsfuse.band_selection.evidence import BandStatistics, measure_bands
from hsfuse.band_selection.request import BandCount, match_bands
from hsfuse.band_selection.thinning import MAX_GAP_NM, thin
from hsfuse.band_selection.windows import windows_of
from hsfuse.errors import InputError, UsageError
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.spectral import BandTable

_log = get_logger(__name__)


@dataclass(frozen=True)
class BandEvidence:
    """One row of the band table.

    Attributes
    ----------
    index
        Position among the product's bands (zero-based).
    centre_nm, fwhm_nm, detector, slot
        The band.
    error_fraction, zero_fraction, negative_fraction
        Shares of imaged samples: flagged invalid or saturated, without data, negative.
    mean
        Mean reflectance.
    snr
        Signal-to-noise ratio, NaN when it could not be measured.
    stripe
        Column stripes as a share of the signal, NaN when they could not be measured.
    correlation
        With the more similar adjacent band.
    window
        Fixed absorption window or edge that the band lies in, empty for none.
    score
        Quality from 0 to 1.
    kept
        Whether the band goes into the cube.
    reason
        Why it was dropped; for a kept band why it is flagged, else empty.
    """

    index: int
    centre_nm: float
    fwhm_nm: float
    detector: str
    slot: int
    error_fraction: float
    zero_fraction: float
    negative_fraction: float
    mean: float
    snr: float
    stripe: float
    correlation: float
    window: str
    score: float
    kept: bool
    reason: str


@dataclass(frozen=True)
class BandSelection:
    """Outcome of :func:`select_bands`.

    Attributes
    ----------
    indices
        Kept bands, ascending indices into the product's bands.
    kept
        Their table; ``good`` is False for bands that were kept although something speaks against them.
    table
        Evidence for every band of the product.
    notes
        Sentences for the report, such as which bands had to be re-admitted.
    """

    indices: NDArray[np.int64]
    kept: BandTable
    table: tuple[BandEvidence, ...]
    notes: tuple[str, ...]

    @property
    def dropped(self) -> tuple[BandEvidence, ...]:
        """Rows of the bands that were left out."""
        return tuple(row for row in self.table if not row.kept)

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable record (numbers that could not be measured are null)."""
        rows = [
            {key: _json_number(value) if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in self.table
        ]
        return {
            "count": len(self.kept),
            "indices": [int(i) for i in self.indices],
            "centre_nm": [round(float(v), 4) for v in self.kept.centre_nm],
            "fwhm_nm": [round(float(v), 4) for v in self.kept.fwhm_nm],
            "notes": list(self.notes),
            "bands": rows,
        }


def select_bands(
    product: HyperspectralProduct,
    *,
    count: BandCount = 100,
    wavelengths_nm: Sequence[float] | None = None,
    not_wanted: str = "not among the requested wavelengths",
    max_gap_nm: float = MAX_GAP_NM,
    limits: Limits | None = None,
    statistics: BandStatistics | None = None,
    progress: Progress | None = None,
) -> BandSelection:
    """Choose the bands of a cube; the same product and arguments always give the same bands.

    Parameters
    ----------
    product
        Open hyperspectral product.
    count
        Exactly so many bands; ``"all"`` of the product; None for all that pass the criteria.
    wavelengths_nm
        Take the bands nearest to these instead (and nothing else).
    not_wanted
        Why other bands are dropped then, for the table.
    max_gap_nm
        Largest gap that thinning may leave, as long as ``count`` can be reached.
    limits
        When the scene's evidence vetoes a band.
    statistics
        Evidence that was measured before; measured here when None.
    progress
        Where to show progress.

    Raises
    ------
    UsageError
        ``count`` is less than 2.
    InputError
        The product has fewer bands than ``count``, or no band for a wavelength.
    OverlapError
        No sampled pixel lies inside the imaged footprint.
    """
    bands = product.bands
    wanted = check_request(product, count=count, wavelengths_nm=wavelengths_nm)
    if statistics is None:
        statistics = measure_bands(product, progress=progress)
    windows = windows_of(bands.centre_nm)
    usual = np.array([window is None for window in windows]) & bands.good
    vetoes = scene_vetoes(bands, statistics, usual, limits or Limits())
    reasons = [
        "; ".join(
            text
            for text in ("" if good else "marked as bad by the producer", window.label if window else "", veto)
            if text
        )
        for good, window, veto in zip(bands.good, windows, vetoes, strict=True)
    ]
    score = quality_scores(statistics, windows, bands.good)
    passed = np.array([not reason for reason in reasons])
    notes: list[str] = []
    if wanted is not None:
        kept, reasons = _as_requested(wanted, reasons, bands, not_wanted, notes)
    elif count == "all":
        kept, reasons = _as_requested(np.arange(len(bands)), reasons, bands, "", notes)
    else:
        target = int(passed.sum()) if count is None else count
        kept, reasons = _exactly(max(target, 1), passed, reasons, score, bands, max_gap_nm, notes)
    for note in notes:
        _log.info("bands: %s", note)
    names = [window.label if window else "" for window in windows]
    return _assemble(bands, statistics, names, score, kept, passed, reasons, notes)


def check_request(
    product: HyperspectralProduct, *, count: BandCount = 100, wavelengths_nm: Sequence[float] | None = None
) -> NDArray[np.int64] | None:
    """Fail where a request of :func:`select_bands` cannot be met, before the scene is read.

    Returns
    -------
    numpy.ndarray or None
        Indices of the bands nearest to the wavelengths, ascending; None when none were given.

    Raises
    ------
    UsageError, InputError
        As for :func:`select_bands`.
    """
    if wavelengths_nm is not None:
        return np.asarray(np.sort(match_bands(product.bands, wavelengths_nm)), dtype=np.int64)
    _check_count(count, len(product.bands), product.info.name)
    return None


def _check_count(count: BandCount, available: int, name: str) -> None:
    if not isinstance(count, int):
        return
    if count < 2:
        raise UsageError(f"Option 'bands': {count} is too few.", hint="Ask for at least 2 bands.")
    if count > available:
        raise InputError(
            f"The product {name} has {available} bands, fewer than the {count} that are asked for.",
            hint=f"Use --bands {available} or less, or --bands all.",
        )


def _as_requested(
    chosen: NDArray[np.int64], reasons: list[str], bands: BandTable, otherwise: str, notes: list[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Keep exactly ``chosen``; what speaks against one of them stays as its reason."""
    flagged = [index for index in chosen if reasons[index]]
    if flagged:
        notes.append(
            f"{len(flagged)} of the requested bands are kept but flagged as bad: {_list_bands(bands, flagged)}."
        )
    inside = np.zeros(len(bands), bool)
    inside[chosen] = True
    texts = [
        reason if inside[index] else "; ".join(text for text in (otherwise, reason) if text)
        for index, reason in enumerate(reasons)
    ]
    return chosen, texts


def _exactly(
    target: int,
    passed: NDArray[np.bool_],
    reasons: list[str],
    score: NDArray[np.float64],
    bands: BandTable,
    max_gap_nm: float,
    notes: list[str],
) -> tuple[NDArray[np.int64], list[str]]:
    """Thin the passed bands, or add the best of the others, to reach the target."""
    texts = list(reasons)
    candidates = np.flatnonzero(passed)
    if candidates.size < target:
        others = np.flatnonzero(~passed)
        # Ties (all-empty bands score 0) go to the shorter wavelength.
        best = others[np.argsort(-score[others], kind="stable")][: target - candidates.size]
        for index in best:
            texts[index] = f"re-admitted to reach {target} bands, despite: {reasons[index]}"
        notes.append(
            f"Only {candidates.size} bands pass; {best.size} more were re-admitted and flagged as bad: "
            f"{_list_bands(bands, sorted(best.tolist()))}."
        )
        return np.sort(np.concatenate([candidates, best])), texts
    if candidates.size == target:
        return candidates, texts
    order = candidates[np.argsort(bands.centre_nm[candidates], kind="stable")]
    result = thin(bands.centre_nm[order], score[order], target, max_gap_nm=max_gap_nm)
    for position, gap in result.gap_nm.items():
        index = order[position]
        texts[index] = f"thinned: score {score[index]:.2f}, neighbours {gap:.0f} nm apart"
    notes.append(f"{candidates.size} bands pass; {len(result.gap_nm)} were thinned out to reach {target}.")
    if result.guide_range_thinned:
        notes.append("Bands in the range of the multispectral image had to be thinned too.")
    if result.max_gap_nm > max_gap_nm:
        notes.append(f"The largest gap had to grow from {max_gap_nm:g} to {result.max_gap_nm:.0f} nm.")
    return np.sort(order[result.kept]), texts


def _assemble(
    bands: BandTable,
    statistics: BandStatistics,
    windows: list[str],
    score: NDArray[np.float64],
    indices: NDArray[np.int64],
    passed: NDArray[np.bool_],
    reasons: list[str],
    notes: list[str],
) -> BandSelection:
    inside = np.zeros(len(bands), bool)
    inside[indices] = True
    rows = tuple(
        BandEvidence(
            index=i,
            centre_nm=float(bands.centre_nm[i]),
            fwhm_nm=float(bands.fwhm_nm[i]),
            detector=bands.detector[i],
            slot=int(bands.slot[i]),
            error_fraction=float(statistics.error_fraction[i]),
            zero_fraction=float(statistics.zero_fraction[i]),
            negative_fraction=float(statistics.negative_fraction[i]),
            mean=float(statistics.mean[i]),
            snr=float(statistics.snr[i]),
            stripe=float(statistics.stripe[i]),
            correlation=float(statistics.correlation[i]),
            window=windows[i],
            score=float(score[i]),
            kept=bool(inside[i]),
            reason=reasons[i],
        )
        for i in range(len(bands))
    )
    chosen = indices.astype(np.int64)
    kept = replace(bands.take(chosen), good=passed[chosen])
    return BandSelection(chosen, kept, rows, tuple(notes))


def _list_bands(bands: BandTable, indices: Sequence[int]) -> str:
    shown = ", ".join(f"{bands.centre_nm[i]:.0f}" for i in indices[:12])
    return f"{shown}{', ...' if len(indices) > 12 else ''} nm"


def _json_number(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
