"""Tiles that are cut and trimmed to what is valid give what whole tiles give, and compute less."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.create import create_method
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.engine import FusionStatistics, fuse_scene_tiles
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.tiling import TilePlan
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import ArrayProduct

RATIO = 3
SEAM = 0.5e-4
"""What a choice of tiles may change: half a step of the stored integers."""


class Blur(FusionMethod):
    """Means over 7 x 7 fine pixels: needs the context of one HSI pixel and nothing beyond."""

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec("blur", "network", halo_px=1, overlap_px=2)

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn nothing."""

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        wide = hsi.repeat_interleave(RATIO, -2).repeat_interleave(RATIO, -1) + msi[:, :1]
        return F.avg_pool2d(F.pad(wide, (3, 3, 3, 3), mode="replicate"), 7, stride=1)


def scene_of(hsi: np.ndarray, msi: np.ndarray, area: np.ndarray, wavelengths: np.ndarray) -> FusionScene:
    fine = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 10.0, *msi.shape[1:])
    coarse = fine.coarsened(RATIO)
    low = ArrayProduct(hsi, coarse, BandTable.make(wavelengths))
    high = ArrayProduct(msi, fine, BandTable.make(np.linspace(490, 830, msi.shape[0])))
    resampler = Resampler(coarse, coarse, DisplacementField.zero())
    return FusionScene(low, high, np.arange(hsi.shape[0]), resampler, coarse, RATIO, Psf(1.0), area=area)


def askew(height: int, width: int, seed: int) -> np.ndarray:
    """Fine pixels of a footprint that lies askew, with a hole."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[: height * RATIO, : width * RATIO] / RATIO
    inside = (row * rng.uniform(-0.6, 0.6) + col > width * rng.uniform(0, 0.6)) & (row < height * rng.uniform(0.5, 1.2))
    hole = np.hypot(row - rng.uniform(0, height), col - rng.uniform(0, width)) < rng.uniform(0, height / 3)
    return inside & ~hole


def run(scene: FusionScene, method: FusionMethod, plan: TilePlan, workers: int) -> tuple[np.ndarray, FusionStatistics]:
    out = np.full((len(scene.bands), *scene.fine_grid.shape), -9.0, np.float32)

    def sink(row0: int, rows: np.ndarray) -> None:
        out[:, row0 : row0 + rows.shape[1]] = rows

    return out, fuse_scene_tiles(scene, method, plan, sink, workers=workers)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(12, 60), st.integers(12, 60), st.integers(6, 20), st.integers(6, 40), st.integers(0, 10_000),
    st.integers(1, 3), st.sampled_from([0, 2]),
)  # fmt: skip
def test_trimming_changes_nothing_where_the_halo_suffices(
    height: int, width: int, tile: int, wide: int, seed: int, workers: int, overlap: int
) -> None:
    rng = np.random.default_rng(seed)
    hsi = rng.random((2, height, width), dtype=np.float32) * 0.4
    msi = rng.random((2, height * RATIO, width * RATIO), dtype=np.float32) * 0.4
    scene = scene_of(hsi, msi, askew(height, width, seed), np.array([500.0, 600.0]))
    side = max(height, width)
    whole, _ = run(scene, Blur(), TilePlan(height, width, side, 0, side), 1)
    plan = TilePlan(height, width, tile, overlap, 1, 1, max(wide, tile), workers)
    cut, statistics = run(scene, Blur(), plan, workers)
    np.testing.assert_array_equal(np.isnan(cut), np.isnan(whole))
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert statistics.valid_pixels == int(np.isfinite(whole[0]).sum())
    again, _ = run(scene, Blur(), plan, workers)
    np.testing.assert_array_equal(again, cut)


def test_a_network_changes_less_than_half_a_step() -> None:
    """With shipped weights, in any pixel."""
    method = create_method("ssrfn-lite")
    wavelengths = np.linspace(450.0, 2300.0, 100)
    height, width = 96, 90
    rng = np.random.default_rng(0)
    parts = [
        gaussian_filter(rng.standard_normal((height * RATIO, width * RATIO)), s) for s in (1.5, 2.0, 4.0, 8.0, 16.0)
    ]
    parts = [0.05 * p / p.std() for p in parts]
    mixing = gaussian_filter(rng.standard_normal((100, 5)), (8, 0)) * 4
    fine = np.clip(0.25 + np.einsum("bk,khw->bhw", mixing, np.array(parts)), 0.01, 1).astype(np.float32)
    hsi = fine.reshape(100, height, RATIO, width, RATIO).mean(axis=(2, 4))
    hsi = (hsi + 0.002 * rng.standard_normal(hsi.shape)).astype(np.float32)
    msi = fine[[5, 12, 20, 40]] + 0.002 * rng.standard_normal((4, *fine.shape[1:])).astype(np.float32)
    scene = scene_of(hsi, msi.astype(np.float32), askew(height, width, 5), wavelengths)
    context = FusionContext(RATIO, wavelengths, np.full(100, 10.0), None, scene.psf)
    method.fit(context, list(scene.low_resolution_strips()))
    # Too small to tell whether the gate gains: all of its correction is used.
    assert method.diagnostics.validation is None
    spec = method.spec
    kind = {"multiple": spec.multiple_px, "padded": spec.padded}
    whole, _ = run(scene, method, TilePlan(height, width, 96, 0, 96, **kind), 1)
    plan = TilePlan(height, width, 32, spec.overlap_px, spec.halo_px, tile_width=48, abreast=2, **kind)
    cut, statistics = run(scene, method, plan, 2)
    np.testing.assert_array_equal(np.isnan(cut), np.isnan(whole))
    inside = np.isfinite(whole)
    assert np.abs(cut - whole)[inside].max() < SEAM
    assert statistics.read_pixels <= sum(tile.read.shape[0] * tile.read.shape[1] for tile in plan) * RATIO**2


def test_a_plan_knows_what_will_be_valid() -> None:
    rng = np.random.default_rng(1)
    height, width = 50, 40
    area = askew(height, width, 3)
    hsi = rng.random((2, height, width), dtype=np.float32)
    hsi[:, :, :5] = np.nan
    msi = rng.random((2, height * RATIO, width * RATIO), dtype=np.float32)
    scene = scene_of(hsi, msi, area, np.array([500.0, 600.0]))
    strip = scene.read(Slice2D(0, height, 0, width))
    valid = strip.valid.reshape(height, RATIO, width, RATIO).any(axis=(1, 3))
    np.testing.assert_array_equal(scene.expected_pixels(), valid)
    everything = replace(scene, area=None).expected_pixels()
    assert everything[:, 5:].all()
    assert not everything[:, :5].any()
