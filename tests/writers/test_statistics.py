"""Statistics that a GIS finds in a cube."""

from __future__ import annotations

import numpy as np
import pytest

from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.statistics import sampled_statistics


class Rows:
    """Stored samples in memory."""

    raw_file = None

    def __init__(self, cube: np.ndarray) -> None:
        self.cube = cube
        self.shape = cube.shape

    def read(self, row0: int, rows: int, band0: int = 0, band1: int | None = None) -> np.ndarray:
        return self.cube[band0:band1, row0 : row0 + rows]


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_statistics_leave_nodata_out(dtype: str) -> None:
    encoding = SampleEncoding.of(dtype)
    cube = np.random.default_rng(0).integers(100, 4000, (3, 40, 30)).astype(encoding.dtype)
    cube[0, :, :10] = encoding.nodata
    cube[2] = encoding.nodata
    first, second, empty = sampled_statistics(Rows(cube), encoding)
    assert empty == {}
    assert first["STATISTICS_APPROXIMATE"] == "YES"
    assert float(first["STATISTICS_VALID_PERCENT"]) == pytest.approx(66.67)
    for band, found in ((cube[0, :, 10:], first), (cube[1], second)):
        assert float(found["STATISTICS_MINIMUM"]) == band.min()
        assert float(found["STATISTICS_MAXIMUM"]) == band.max()
        assert float(found["STATISTICS_MEAN"]) == pytest.approx(band.mean())
        assert float(found["STATISTICS_STDDEV"]) == pytest.approx(band.std())
