"""The band table as text, for terminals and reports."""

from __future__ import annotations

import math

from hsfuse.band_selection.selection import BandSelection

COLUMNS: tuple[str, ...] = (
    *("band", "nm", "FWHM", "detector", "error", "no data", "negative"),
    *("SNR", "stripes", "corr.", "score", "kept", "reason"),
)


def evidence_table(selection: BandSelection) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the column titles and one row of texts per band of the product.

    Bands are numbered from 1, as in the names of a product with all bands.
    """
    rows: list[tuple[str, ...]] = [
        (
            str(row.index + 1),
            f"{row.centre_nm:.1f}",
            f"{row.fwhm_nm:.1f}",
            row.detector,
            _share(row.error_fraction),
            _share(row.zero_fraction),
            _share(row.negative_fraction),
            _value(row.snr, ".0f"),
            _share(row.stripe),
            f"{row.correlation:.3f}",
            f"{row.score:.2f}",
            "yes" if row.kept else "no",
            row.reason,
        )
        for row in selection.table
    ]
    return COLUMNS, rows


def _share(value: float) -> str:
    return _value(100.0 * value, ".1f", " %")


def _value(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"
