"""What a smooth field cannot follow is seen: fine displacement, a second layer, shadows, ground without points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from generated_images import COARSE_M, FINE_M, Image
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin
from scipy import ndimage

from hsfuse.config import CoregisterConfig
from hsfuse.coregister import CoregistrationResult, coregister_products
from hsfuse.coregister.boxes import Boxes
from hsfuse.coregister.fine import fit_finer
from hsfuse.coregister.heldout import BoxFit, HeldOutFit
from hsfuse.coregister.models import Points
from hsfuse.coregister.polynomials import Polynomial
from hsfuse.coregister.refine import Refiner
from hsfuse.coregister.relief import Relief
from hsfuse.coregister.shadows import ShadowBias, light_variance
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


def test_ridges_a_kilometre_apart_are_followed() -> None:
    """Ridges of 33 pixels are half as wide as a matching window and four boxes of 8 pixels long."""
    size = SIDE * RATIO + 2 * MARGIN
    ground = texture(6, size, 0.05)
    rows, cols = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    along = (np.cos(a) * rows + np.sin(a) * cols for a in (0.3, 0.9, 1.7, 2.6))
    parallax = sum(10.0 * np.cos(2 * np.pi * u / 33.0 + k) for k, u in enumerate(along))
    dx, dy = 40.0 + 0.97 * parallax, -20.0 + 0.24 * parallax
    target, reference = seen_by_both(ground, ground, dx, dy)
    result = coregister(target, reference)
    assert result.trusted
    found = result.field.on_grid(target.grid)
    true = float(np.sqrt(((found[0] - dx) ** 2 + (found[1] - dy) ** 2).mean()))
    assert true < 6.0, "a shift alone is 14 m wrong"
    assert 0.5 * true < result.rmse_m < 2.0 * true


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


def test_short_waves_are_judged_by_boxes_beside_those_that_were_fitted() -> None:
    """Every other row of boxes cannot follow a wave of five rows, but a pair is known from those around it."""
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 9600.0, 30.0, 320, 320)
    rows, cols = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    wave = 0.6 * np.sin(2 * np.pi * rows / 5.0)
    rng = np.random.default_rng(1)
    residual = np.stack([wave, 0.7 * wave], axis=-1) + rng.normal(0.0, 0.15, (40, 40, 2))
    position = 8.0 * np.stack([rows, cols], axis=-1) + 3.5
    seen = Boxes(position, residual, np.full((40, 40), 0.15), np.ones((40, 40), bool), 8)
    fitted = BoxFit.of(seen, np.zeros_like(residual), PolynomialSpline(Spline.over(320, 320, 10.0, grid)))
    assert fitted is not None
    judged = HeldOutFit.of(fitted)
    found = fitted.whole.at(position.reshape(-1, 2)).reshape(residual.shape)
    true = float(((found - np.stack([wave, 0.7 * wave], axis=-1)) ** 2).sum(axis=-1).mean()) / 2.0
    assert judged.after.value < 0.2 * judged.before.value
    assert true < judged.after.value < 6.0 * true + 0.002


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs_of_boxes_are_left_out_with_none_beside_them(axis: int) -> None:
    folds = boxes(0.0, 0.3).folds(axis).reshape(40, 40)
    along = folds if axis == 0 else folds.T
    assert (along[0::2] == along[1::2]).all(), "both of a pair"
    assert (along[1:-1:2] != along[2::2]).all(), "the next pair"
    assert (along[:, :-1] != along[:, 1:]).all(), "the pairs beside it"
    assert [int((folds == k).sum()) for k in range(4)] == [400] * 4


def test_a_box_among_known_ones_is_interpolated_and_a_hole_is_unknown() -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 9600.0, 30.0, 320, 320)
    seen = boxes(0.2, 0.1)
    shares = []
    for hole in (np.s_[4:40:4, 4:40:8], np.s_[10:16, 10:16]):
        usable = np.ones((40, 40), bool)
        usable[hole] = False
        holed = Boxes(seen.position, seen.residual, seen.sigma, usable, 8)
        fitted = BoxFit.of(holed, np.zeros_like(seen.residual), PolynomialSpline(Spline.over(320, 320, 10.0, grid)))
        assert fitted is not None
        shares.append(HeldOutFit.of(fitted).unknown)
    assert shares[0] == pytest.approx(0.25 * 45 / 1600, rel=0.3)
    assert shares[1] == pytest.approx(36 / 1600, rel=0.3)


def test_the_error_of_another_field_is_not_taken_for_missed_displacement() -> None:
    """Boxes that were measured beside a rough field say how wrong that one is, not the one that was chosen."""
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 9600.0, 30.0, 320, 320)
    blank = np.random.default_rng(2).normal(size=(1, 320, 320)).astype(np.float32)
    refiner = Refiner(torch.from_numpy(blank), torch.from_numpy(blank.copy()), 0.0)
    rows, cols = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    position = 8.0 * np.stack([rows, cols], axis=-1) + 3.5
    rough = (0.03 * np.sin(2 * np.pi * np.arange(320.0) / 200.0)[None, :, None] + np.zeros((2, 1, 320))).astype("f4")
    noise = np.random.default_rng(3).normal(0.0, 0.06, (40, 40, 2))
    residual = noise - np.moveaxis(rough[:, 4::8, 4::8], 0, -1)
    seen = Boxes(position, residual, np.full((40, 40), 0.06), np.ones((40, 40), bool), 8)
    points = Points(position.reshape(-1, 2), noise.reshape(-1, 2), np.full(1600, 0.06), 1.0, 8.0, 8.0)
    flat = Polynomial(0, 320, 320).fit(points, np.ones(1600))
    everywhere = torch.ones((320, 320), dtype=torch.bool)
    stated = [
        fit_finer(refiner, flat, grid, everywhere, boxes=seen, beside=beside).variance
        for beside in (rough, np.zeros_like(rough))
    ]
    assert stated[0] < 0.2 * stated[1]
    assert stated[1] > 2e-4


def test_light_and_shade_are_part_of_the_error_where_much_is_dark() -> None:
    lit = torch.ones((10, 10), dtype=torch.bool)
    lit[0] = False
    assert light_variance(lit, 0.05) == 0.0, "a tenth: water and dark fields"
    lit[:6] = False
    assert np.sqrt(2.0 * light_variance(lit, 0.05)) == pytest.approx(2.8 * 0.4 * 0.05)


def test_a_slope_is_doubted_beyond_the_points() -> None:
    rng = np.random.default_rng(4)
    position = rng.uniform([150.0, 0.0], [250.0, 400.0], (200, 2))
    points = Points(position, 0.001 * position, np.full(200, 0.03), 1.0, 20.0, 64.0)
    slope = Polynomial(1, 400, 400).fit(points, np.ones(200))
    influence, left_open = slope.influence(points, np.ones(200), np.array([[200.0, 200.0], [10.0, 200.0]]))
    assert influence.shape == (2, 200)
    assert left_open[0] == 0.0
    assert np.sqrt(left_open[1]) > 0.2, "140 pixels beyond"


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
