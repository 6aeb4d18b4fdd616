"""Statistics of a cube's bands, so that a GIS has a contrast at once and need not look through gigabytes.

They rest on rows spread over the cube, which GDAL's own word for it (``STATISTICS_APPROXIMATE``) says. Equal cubes have
equal statistics.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.parallel import side_by_side, threads_for
from hsfuse.writers.encoding import RowSource, SampleEncoding

FloatArray = NDArray[np.float64]

_ROWS = 64
_MOST_THREADS = 8


def sampled_statistics(rows: RowSource, encoding: SampleEncoding) -> list[dict[str, str]]:
    """GDAL's statistics items of every band, in stored numbers; empty for a band without data in the sampled rows."""
    bands, height, _ = rows.shape
    picked = np.unique(np.linspace(0, height - 1, min(_ROWS, height)).round().astype(int))
    least, most = np.full(bands, np.inf), np.full(bands, -np.inf)
    total, squares, count = (np.zeros(bands) for _ in range(3))
    seen = 0
    for row in side_by_side(lambda row: _of_row(rows, int(row), encoding), picked, threads_for(_MOST_THREADS)):
        seen += row.seen
        least, most = np.minimum(least, row.least), np.maximum(most, row.most)
        total += row.total
        squares += row.squares
        count += row.known
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    return [
        {
            "STATISTICS_MINIMUM": f"{least[band]:.8g}", "STATISTICS_MAXIMUM": f"{most[band]:.8g}",
            "STATISTICS_MEAN": f"{mean[band]:.8g}", "STATISTICS_STDDEV": f"{deviation[band]:.8g}",
            "STATISTICS_VALID_PERCENT": f"{100.0 * count[band] / seen:.4g}", "STATISTICS_APPROXIMATE": "YES",
        } if count[band] else {}
        for band in range(bands)
    ]  # fmt: skip


class _Row(NamedTuple):
    """Figures of one row, arrays of shape (band,)."""

    seen: int
    least: FloatArray
    most: FloatArray
    total: FloatArray
    squares: FloatArray
    known: FloatArray


def _of_row(rows: RowSource, row: int, encoding: SampleEncoding) -> _Row:
    stored = np.asarray(rows.read(row, 1)).reshape(rows.shape[0], -1)
    valid = _valid(stored, encoding)
    values = stored.astype(np.float64)
    least = np.where(valid, values, np.inf).min(axis=1)
    most = np.where(valid, values, -np.inf).max(axis=1)
    values[~valid] = 0.0
    return _Row(
        stored.shape[1], least, most, values.sum(axis=1), np.einsum("ij,ij->i", values, values),
        valid.sum(axis=1).astype(np.float64),
    )  # fmt: skip


def _valid(stored: NDArray[np.generic], encoding: SampleEncoding) -> NDArray[np.bool_]:
    if np.isnan(encoding.nodata):
        return np.isfinite(stored.astype(np.float64))
    return np.asarray(stored != encoding.nodata)
