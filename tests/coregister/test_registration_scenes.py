"""Scenes that must be refused, and what the stated error must say where nothing was seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rasterio.crs import CRS
from scipy import ndimage

from hsfuse.config import CoregisterConfig
from hsfuse.coregister import coregister_products
from hsfuse.coregister.models import Points
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.splines import PolynomialSpline
from hsfuse.coregister.uncertainty import FieldUncertainty, overlap_covariance
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import ProductInfo

CRS_M = CRS.from_epsg(32632)
SIZE, RATIO, MARGIN = 240, 3, 120


class Image:
    """A multispectral product in memory."""

    responses = None

    def __init__(self, cube: np.ndarray, grid: Grid) -> None:
        self.cube, self.grid = cube.astype(np.float32), grid
        self.band_names = tuple(f"B{i + 1}" for i in range(len(cube)))
        self.info = ProductInfo(name="image", sensor="", level="", path=None)

    def read(self, block: Slice2D, bands=None) -> np.ndarray:
        chosen = self.cube if bands is None else self.cube[list(bands)]
        return chosen[(slice(None), *block.slices)].copy()

    def cloud(self, block: Slice2D) -> None:
        return None

    def classes(self, block: Slice2D) -> None:
        return None

    def close(self) -> None:
        pass


def landscape(seed: int, size: int = SIZE * RATIO + 2 * MARGIN) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = sum(ndimage.gaussian_filter(rng.normal(size=(3, size, size)), (0, s, s)) * s for s in (2, 5, 12))
    return 0.15 + 0.05 * rough / rough.std()


def pair(ground: np.ndarray, seen: np.ndarray, *, noise: float = 0.004, seed: int = 0) -> tuple[Image, Image]:
    """Target (30 m) of ``seen`` and reference (10 m) of ``ground``, both of the same place."""
    rng = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter(seen, (0, 1.6, 1.6))
    inner = blurred[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    target = inner.reshape(3, SIZE, RATIO, SIZE, RATIO).mean(axis=(2, 4))
    target = target + rng.normal(size=target.shape) * noise
    whole = ground.shape[-1]
    fine = Grid.from_origin(CRS_M, 500_000.0, 5_000_000.0, 10.0, whole, whole)
    coarse = Grid.from_origin(CRS_M, 500_000.0 + 10 * MARGIN, 5_000_000.0 - 10 * MARGIN, 30.0, SIZE, SIZE)
    return Image(target, coarse), Image(ground + rng.normal(size=ground.shape) * 0.002, fine)


def register(ground: np.ndarray, seen: np.ndarray, **options) -> CoregistrationResult:
    target, reference = pair(ground, seen, **options)
    return coregister_products(target, reference, CoregisterConfig())


def test_the_same_landscape_is_accepted() -> None:
    ground = landscape(1)
    result = register(ground, np.roll(ground, (9, -15), axis=(1, 2)))
    assert result.verdict == "accepted"
    assert np.hypot(result.global_shift_m[0] - 150.0, result.global_shift_m[1] - 90.0) < 10.0


@pytest.mark.parametrize("seed", range(4))
def test_another_landscape_is_rejected(seed: int) -> None:
    result = register(landscape(10 + seed), landscape(50 + seed))
    assert result.verdict == "rejected"
    assert "no common pattern" in result.reason
    assert result.field.model == "zero"


@pytest.mark.parametrize("seed", range(3))
def test_water_with_swell_is_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, SIZE * RATIO + 2 * MARGIN, SIZE * RATIO + 2 * MARGIN)
    one, two = (0.03 + 0.003 * ndimage.gaussian_filter(rng.normal(size=shape), (0, 4, 4)) * 10 for _ in range(2))
    assert register(one, two).verdict == "rejected"


def test_one_flat_image_is_rejected() -> None:
    ground = landscape(3)
    assert register(ground, np.full_like(ground, 0.02)).verdict == "rejected"


def test_stripes_of_the_sensor_alone_are_rejected() -> None:
    ground, other = landscape(4), landscape(5)
    stripes = np.random.default_rng(6).normal(size=(1, 1, other.shape[2])) * 0.08
    assert register(ground, 0.1 * other + stripes).verdict == "rejected"


def test_an_image_without_a_usable_pixel_is_a_rejection() -> None:
    target, reference = pair(landscape(7), landscape(7))
    reference.cube[:] = np.nan
    result = coregister_products(target, reference, CoregisterConfig())
    assert result.verdict == "rejected"
    assert "no usable pixel" in result.reason


def test_windows_over_a_lake_do_not_measure() -> None:
    ground = landscape(8)
    seen = np.roll(ground, (3, 6), axis=(1, 2))
    half = ground.shape[2] // 2
    rng = np.random.default_rng(9)
    for image in (ground, seen):
        image[:, :, half:] = 0.03 + 0.002 * ndimage.gaussian_filter(
            rng.normal(size=image[:, :, half:].shape), (0, 2, 2)
        )
    target, reference = pair(ground, seen)
    result = coregister_products(target, reference, CoregisterConfig())
    assert result.trusted
    used = result.tie_points.used
    middle = target.grid.bounds.left + 0.5 * 30.0 * SIZE
    # Windows that reach over the shore still see land.
    assert result.tie_points.x[used].max() < middle + 30.0 * 32
    error = np.hypot(result.tie_points.dx_m[used] + 60.0, result.tie_points.dy_m[used] - 30.0)
    assert np.quantile(error, 0.99) < 10.0


def test_land_between_many_small_clouds_is_enough() -> None:
    """A usual window holds too little of it, the scene as a whole does not."""
    ground = landscape(12)
    target, reference = pair(ground, np.roll(ground, (3, -6), axis=(1, 2)))
    cloud = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=ground.shape[1:]), 9)
    reference.cube[:, cloud > np.quantile(cloud, 0.3)] = np.nan
    result = coregister_products(target, reference, CoregisterConfig())
    assert result.trusted
    dx, dy = result.field.at(500_000.0 + 5_000.0, 5_000_000.0 - 5_000.0)
    assert np.hypot(dx - 60.0, dy - 30.0) < 6.0


def test_one_shift_for_a_distorted_scene_says_how_wrong_it_is() -> None:
    ground = landscape(13)
    size = ground.shape[1]
    row, col = np.mgrid[:size, :size].astype(float)
    wave_px = 1.5 * np.sin(2 * np.pi * col / 700.0)
    seen = np.stack([ndimage.map_coordinates(layer, [row + wave_px, col], order=1, mode="nearest") for layer in ground])
    target, reference = pair(ground, seen)
    result = coregister_products(target, reference, CoregisterConfig(coregister="global"))
    assert result.verdict == "global only"
    true_m = 10.0 * np.sqrt(
        np.mean((wave_px[MARGIN:-MARGIN, MARGIN:-MARGIN] - result.field.at(0.0, 0.0)[1] / -10.0) ** 2)
    )
    assert true_m > 5.0
    assert result.rmse_m == pytest.approx(true_m, rel=0.5)


def lattice_points(
    sigma: float, keep=lambda row, col: np.ones(row.shape, bool), noise_seed: int | None = None
) -> Points:
    row, col = (v.ravel().astype(float) for v in np.meshgrid(np.arange(10, 400, 20), np.arange(10, 400, 20)))
    kept = keep(row, col)
    position = np.stack([row[kept], col[kept]], axis=1)
    value = np.stack([np.sin(position[:, 1] / 60), np.cos(position[:, 0] / 60)], axis=1)
    points = Points(position, value, np.full(len(value), sigma), 4.6, 20.0, 64.0)
    if noise_seed is not None:
        root = np.linalg.cholesky(overlap_covariance(points).toarray() + 1e-9 * np.eye(points.size))
        noise = root @ np.random.default_rng(noise_seed).normal(size=value.shape)
        points = Points(position, value + noise, points.sigma, 4.6, 20.0, 64.0)
    return points


def test_influence_reproduces_the_fit() -> None:
    grid = Grid.from_origin(CRS_M, 0.0, 0.0, 30.0, 400, 400)
    points, spline = lattice_points(0.05, noise_seed=1), Spline.over(400, 400, 40.0, grid)
    fitted = PolynomialSpline(spline).fit(points, np.ones(points.size), 0.01)
    somewhere = np.random.default_rng(2).uniform(0, 399, (40, 2))
    influence, prior_variance = fitted.influence(points, np.ones(points.size), somewhere)
    # The weak prior on the slopes is the only part that is not a sum over the points.
    assert influence @ points.value == pytest.approx(fitted.at(somewhere), abs=1e-6)
    assert (prior_variance >= -1e-9).all()


def test_a_field_smoother_than_its_prior_leaves_less_open() -> None:
    grid = Grid.from_origin(CRS_M, 0.0, 0.0, 30.0, 400, 400)
    spline = Spline.over(400, 400, 40.0, grid)
    points = lattice_points(0.01)
    one = np.ones(points.size)
    smooth = PolynomialSpline(spline).fit(points, one, 1e-4 * spline.unit_smoothing(points))
    noisy = replace(points, value=np.random.default_rng(1).normal(0, 1.0, points.value.shape))
    rough = PolynomialSpline(spline).fit(noisy, one, 1e-4 * spline.unit_smoothing(points))
    assert smooth.roughness < 1.0 < rough.roughness


def test_stated_error_follows_the_noise_and_grows_where_nothing_was_seen() -> None:
    grid = Grid.from_origin(CRS_M, 0.0, 0.0, 30.0, 400, 400)
    spline = Spline.over(400, 400, 40.0, grid)
    where = np.random.default_rng(3).uniform(40, 360, (100, 2))
    truth = np.stack([np.sin(where[:, 1] / 60), np.cos(where[:, 0] / 60)], axis=1)
    ratios = []
    for seed in range(6):
        points = lattice_points(0.04, noise_seed=seed)
        # The points' standard errors are stated twice as large as they are; their scatter reveals it.
        wrong = Points(points.position, points.value, 2 * points.sigma, 4.6, 20.0, 64.0)
        weight = np.ones(points.size)
        fitted = PolynomialSpline(spline).fit(wrong, weight, 0.01 * spline.unit_smoothing(wrong))
        uncertainty = FieldUncertainty.of(fitted, wrong, weight)
        error = np.sqrt(((fitted.at(where) - truth) ** 2).mean())
        ratios.append(np.sqrt(uncertainty.variance_at(where).mean()) / error)
    assert 0.7 < np.median(ratios) < 1.5
    holed = lattice_points(0.04, lambda row, col: (row < 150) | (row > 250) | (col < 150) | (col > 250), noise_seed=1)
    fitted = PolynomialSpline(spline).fit(holed, np.ones(holed.size), 0.01 * spline.unit_smoothing(holed))
    uncertainty = FieldUncertainty.of(fitted, holed, np.ones(holed.size))
    inside, beside = uncertainty.variance_at(np.array([[200.0, 200.0], [80.0, 80.0]]))
    assert inside > 3.0 * beside
