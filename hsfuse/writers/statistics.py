"""Statistics of a cube's bands, so that a GIS has a contrast at once and need not look through gigabytes.

They rest on rows spread over the cube, which GDAL's own word for it (``STATISTICS_APPROXIMATE``) says. Equal cubes have
equal statistics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.writers.encoding import RowSource, SampleEncoding

_ROWS = 64


def sampled_statistics(rows: RowSource, encoding: SampleEncoding) -> list[dict[str, str]]:
    """GDAL's statistics items of every band, in stored numbers; empty for a band without data in the sampled rows."""
    bands, height, _ = rows.shape
    picked = np.unique(np.linspace(0, height - 1, min(_ROWS, height)).round().astype(int))
    least, most = np.full(bands, np.inf), np.full(bands, -np.inf)
    total, squares, count = (np.zeros(bands) for _ in range(3))
    seen = 0
    for row in picked:
        stored = np.asarray(rows.read(int(row), 1)).reshape(bands, -1)
        seen += stored.shape[1]
        valid = _valid(stored, encoding)
        values = stored.astype(np.float64)
        least = np.minimum(least, np.where(valid, values, np.inf).min(axis=1))
        most = np.maximum(most, np.where(valid, values, -np.inf).max(axis=1))
        values[~valid] = 0.0
        total += values.sum(axis=1)
        squares += np.einsum("ij,ij->i", values, values)
        count += valid.sum(axis=1)
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


def _valid(stored: NDArray[np.generic], encoding: SampleEncoding) -> NDArray[np.bool_]:
    if np.isnan(encoding.nodata):
        return np.isfinite(stored.astype(np.float64))
    return np.asarray(stored != encoding.nodata)
