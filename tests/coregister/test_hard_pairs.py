"""What a smooth field cannot follow is seen: fine displacement, a second layer, shadows, ground without points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from generated_images import COARSE_M, FINE_M, Image
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin
from scipy import ndimage

from hsfuse.config import CoregisterConfig
from hsfuse.coregister import CoregistrationResult, coregister_products
from hsfuse.coregister.boxes import Boxes
from hsfuse.coregister.halves import HalvedFit
from hsfuse.coregister.relief import Relief
from hsfuse.coregister.shadows import ShadowBias
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.splines import PolynomialSpline
from hsfuse.coregister.support import Support
from hsfuse.degrade import Psf
from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid
from hsfuse.readers.dem import read_heights

SIDE = 200
RATIO = round(COARSE_M / FINE_M)
MARGIN = 20


def texture(seed: int, size: int, scale: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    out = sum(ndimage.gaussian_filter(rng.normal(size=(size, size)), s) * s**0.8 for s in (1.5, 3.0, 8.0))
    return np.asarray(0.2 + scale * out / np.std(out))


def seen_by_both(
    first: NDArray[np.float64], second: NDArray[np.float64], dx_m: object, dy_m: object
) -> tuple[Image, Image]:
    """A fine image of the first ground, and a coarse one of the second, displaced by (dx, dy) at its pixels."""
    fine = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, FINE_M, *first.shape)
    left, top = 600_000.0 + MARGIN * FINE_M, 5_000_000.0 - MARGIN * FINE_M
    coarse = Grid.from_origin(CRS.from_epsg(32632), left, top, COARSE_M, SIDE, SIDE)
    rows, cols = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    at_row = MARGIN + (rows + 0.5) * RATIO - 0.5 - np.asarray(dy_m) / FINE_M
    at_col = MARGIN + (cols + 0.5) * RATIO - 0.5 + np.asarray(dx_m) / FINE_M
    blurred = ndimage.gaussian_filter(second, 1.25 * RATIO / 2.3548)
    rng = np.random.default_rng(5)
    seen = ndimage.map_coordinates(blurred, [at_row, at_col], order=3) + rng.normal(0, 0.002, (SIDE, SIDE))
    return Image(seen[None].astype(np.float32), coarse), Image(first[None].astype(np.float32), fine)


def coregister(target: Image, reference: Image) -> CoregistrationResult:
    return coregister_products(target, reference, CoregisterConfig(search_m=300.0), psf=Psf(1.25))


def test_jitter_finer_than_the_windows_is_followed_or_stated() -> None:
    size = SIDE * RATIO + 2 * MARGIN
    ground = texture(1, size, 0.05)
    rows = np.arange(SIDE)[:, None] + np.zeros(SIDE)
    dx, dy = 40.0 + 24.0 * np.sin(2 * np.pi * rows / 55.0), -20.0 + 0.0 * rows
    target, reference = seen_by_both(ground, ground, dx, dy)
    result = coregister(target, reference)
    assert result.trusted
    found = result.field.on_grid(target.grid)
    true = float(np.sqrt(((found[0] - dx) ** 2 + (found[1] - dy) ** 2).mean()))
    assert true < 10.0, "a shift alone is 17 m wrong"
    assert result.rmse_m > 0.4 * true
    assert result.details["fine_displacement_m"] > 3.0


def test_a_layer_that_moved_by_itself_is_not_taken_for_the_ground() -> None:
    """A third of the scene lies where it lay before, two thirds moved by 150 m: one of them is wrong."""
    size = SIDE * RATIO + 2 * MARGIN
    ground, ice = texture(2, size, 0.05), texture(3, size, 0.08)
    coast = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(size, size)), 25)
    sea = coast > np.quantile(coast, 0.35)
    before, after = np.where(sea, ice, ground), np.where(sea, np.roll(ice, (9, 12), (0, 1)), ground)
    result = coregister(*seen_by_both(before, after, 30.0, 30.0))
    assert result.verdict == "rejected"
    assert "150 m away" in result.reason


def boxes(common: float, own: float, *, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    rows, cols = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    wave = np.sqrt(2.0) * common * np.sin(2 * np.pi * rows / 9.0)
    residual = np.stack([wave, wave], axis=-1) + rng.normal(0.0, own, (40, 40, 2))
    position = 8.0 * np.stack([rows, cols], axis=-1)
    return Boxes(position, residual, np.full((40, 40), own), np.ones((40, 40), bool), 8)


def test_neighbouring_boxes_share_displacement_but_no_noise() -> None:
    assert boxes(0.0, 0.3).covariance().above_chance < 0.002
    assert boxes(0.2, 0.3).covariance().value == pytest.approx(0.04, abs=0.01)


def test_short_waves_along_one_direction_are_judged_by_boxes_of_the_other() -> None:
    """Every other row of boxes cannot follow a wave of five rows, but all rows can, and every other column too."""
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 9600.0, 30.0, 320, 320)
    rows, cols = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    wave = 0.6 * np.sin(2 * np.pi * rows / 5.0)
    rng = np.random.default_rng(1)
    residual = np.stack([wave, 0.7 * wave], axis=-1) + rng.normal(0.0, 0.15, (40, 40, 2))
    position = 8.0 * np.stack([rows, cols], axis=-1) + 3.5
    seen = Boxes(position, residual, np.full((40, 40), 0.15), np.ones((40, 40), bool), 8)
    fitted = HalvedFit.of(seen, np.zeros_like(residual), PolynomialSpline(Spline.over(320, 320, 10.0, grid)))
    assert fitted is not None
    found = fitted.whole.at(position.reshape(-1, 2)).reshape(residual.shape)
    true = float(((found - np.stack([wave, 0.7 * wave], axis=-1)) ** 2).sum(axis=-1).mean()) / 2.0
    assert fitted.at_worst.value > 8.0 * true
    assert fitted.after.value < 4.0 * true + 0.002


def test_the_image_without_shadow_decides_where_it_is_sure() -> None:
    assert ShadowBias.of(0.05, 0.03, 0.03) is None
    between = ShadowBias.of(0.15, 0.035, 0.05)
    assert between is not None
    assert not between.corrected
    assert between.variance == pytest.approx(0.0094, abs=1e-4), "what chance does not explain is stated"
    sure = ShadowBias.of(0.2, 0.02, 0.02)
    assert sure is not None
    assert sure.corrected
    doubtful = ShadowBias.of(0.4, 0.02, 0.15)
    assert doubtful is not None
    assert not doubtful.corrected
    assert doubtful.variance == pytest.approx(0.08), "what is not corrected is stated in full"


def test_ground_far_from_all_points_is_extrapolated() -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 3000.0, 30.0, 100, 100)
    beyond = Support(np.array([750.0]), np.array([2250.0]), 900.0).extrapolated_on(grid)
    assert beyond.shape == (100, 100)
    assert not beyond[25, 25]
    assert beyond[90, 90]
    assert Support(np.zeros(0), np.zeros(0), 900.0).extrapolated_on(grid).all()


def test_heights_are_read_onto_the_grid(tmp_path: Path) -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 30.0, 20, 30)
    path = tmp_path / "dem.tif"

    def write(crs: str | None, width: int) -> None:
        with rasterio.open(
            path, "w", driver="GTiff", dtype="float32", count=1, height=40, width=width, crs=crs,
            transform=from_origin(599_700.0, 5_000_300.0, 60.0, 60.0),
        ) as sink:  # fmt: skip
            sink.write(np.arange(width, dtype=np.float32)[None].repeat(40, 0)[None] * 60.0)

    write("EPSG:32632", 40)
    height = read_heights(path, grid)
    # Column 0 lies 315 m east of the DEM's left edge, whose pixel centres start at 30 m.
    np.testing.assert_allclose(height[5], 285.0 + 30.0 * np.arange(30), atol=0.1)
    relief = Relief.of(height, 30.0)
    assert relief is not None
    coefficients = np.zeros((4, 2))
    coefficients[3] = 0.0, 0.1 * float(relief.height_m.std()) / 30.0
    assert relief.slope(coefficients) == pytest.approx((0.0, 0.1))
    assert Relief.of(np.zeros((20, 30), np.float32), 30.0) is None
    write("EPSG:32632", 8)
    with pytest.raises(OverlapError, match="covers"):
        read_heights(path, grid)
    write(None, 40)
    with pytest.raises(InputError, match="no reference system"):
        read_heights(path, grid)
    with pytest.raises(InputError, match="cannot be read"):
        read_heights(tmp_path / "none.tif", grid)
