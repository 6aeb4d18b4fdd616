"""Two guides as one image on the finer grid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.joined_guide import CoarsePixels, JoinedGuide
from hsfuse.readers.base import MultispectralProduct, ProductInfo
from hsfuse.spectral import SpectralResponse


class Image(MultispectralProduct):
    def __init__(self, cube, grid, names, centre_nm):
        self._cube, self._grid, self._names = cube.astype(np.float32), grid, names
        self._responses = tuple(SpectralResponse.gaussian(n, c, 40.0) for n, c in zip(names, centre_nm, strict=True))

    info = property(lambda self: ProductInfo("x", "x", "", None))
    grid = property(lambda self: self._grid)
    band_names = property(lambda self: self._names)
    responses = property(lambda self: self._responses)

    def read(self, block, bands=None):
        part = self._cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[list(bands)])

    def cloud(self, block):
        return self._cube[0][block.slices] > 0.9 if len(self._names) > 1 else None

    def classes(self, block):
        return None

    def close(self):
        pass


def grid(left: float, top: float, pixel_m: float, rows: int, cols: int) -> Grid:
    return Grid.from_origin(CRS.from_epsg(32632), left, top, pixel_m, rows, cols)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    coarse = Image(rng.random((2, 20, 24)), grid(0.0, 200.0, 10.0, 20, 24), ("B04", "B08"), (665.0, 842.0))
    y, x = np.mgrid[0:60, 0:70]
    smooth = 0.4 + 0.2 * np.sin(x / 6.0) * np.cos(y / 7.0)
    # Its grid is not aligned with the other's.
    fine = Image(smooth[None], grid(-41.5, 247.0, 5.0, 60, 70), ("PAN",), (550.0,))
    return coarse, fine


def test_bands_of_the_coarse_guide_are_repeated_wherever_a_window_begins(images) -> None:
    coarse, fine = images
    joined = JoinedGuide(coarse, fine)
    assert joined.band_names == ("B04", "B08", "PAN")
    assert joined.grid.shape == (40, 48)
    block = Slice2D(3, 18, 5, 30)
    whole = np.kron(coarse.read(coarse.grid.full), np.ones((1, 2, 2), np.float32))
    seen = joined.read(block)
    assert_array_equal(seen[:2], whole[(slice(None), *block.slices)])
    assert_array_equal(joined.read(block, [2, 0]), seen[[2, 0]])
    mask = joined.cloud(block)
    assert_array_equal(mask, np.kron(coarse.read(coarse.grid.full)[0] > 0.9, np.ones((2, 2), bool))[block.slices])
    assert_array_equal(joined.finest().read(block), seen[2:])


def test_the_fine_guide_is_moved_to_where_the_coarse_one_shows_its_ground(images) -> None:
    coarse, fine = images
    moved = JoinedGuide(coarse, fine).aligned(DisplacementField.shift(12.0, -7.0, fine.grid.crs))
    block = Slice2D(10, 20, 12, 24)
    row, col = np.meshgrid(np.arange(10.0, 20.0), np.arange(12.0, 24.0), indexing="ij")
    x, y = moved.grid.xy(row, col)
    fine_row, fine_col = fine.grid.rowcol(x - 12.0, y + 7.0)
    want = 0.4 + 0.2 * np.sin(fine_col / 6.0) * np.cos(fine_row / 7.0)
    assert_allclose(moved.read(block, [2])[0], want, atol=1e-3)


def test_larger_pixels_are_means(images) -> None:
    _, fine = images
    seen = CoarsePixels(fine, 3).read(Slice2D(1, 4, 2, 6))
    want = fine.read(Slice2D(3, 12, 6, 18)).reshape(1, 3, 3, 4, 3).mean(axis=(2, 4))
    assert_allclose(seen, want, rtol=1e-6)


def test_guides_that_do_not_nest_are_refused(images) -> None:
    coarse, _ = images
    other = Image(np.zeros((1, 10, 10)), grid(0.0, 200.0, 4.0, 10, 10), ("PAN",), (550.0,))
    with pytest.raises(UsageError, match="whole ratio"):
        JoinedGuide(coarse, other)
