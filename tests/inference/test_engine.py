"""The engine: what goes in comes out, whatever the tiles; nothing is invented under a mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference import row_jobs
from hsfuse.inference.engine import PHYSICAL_RANGE, FusionStatistics, fuse_scene_tiles
from hsfuse.inference.first_rows import reading_first_rows
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.strips import read_ahead
from hsfuse.inference.tiling import TilePlan
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.workflows.fuse_arrays import fuse
from hsfuse.workflows.steps.array_scene import ArrayProduct


class Repeat(FusionMethod):
    """Repeats HSI pixels and adds the first MSI band: exact for any tile."""

    def __init__(self) -> None:
        self.calls = 0
        self.shapes: list[tuple[int, ...]] = []

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec("repeat", "classical", halo_px=0)

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn nothing."""

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.shapes.append(tuple(hsi.shape))
        assert not torch.isnan(hsi).any()
        assert not torch.isnan(msi).any()
        ratio = msi.shape[-1] // hsi.shape[-1]
        return hsi.repeat_interleave(ratio, -2).repeat_interleave(ratio, -1) + 0.1 * msi[:, :1]


def make_scene(hsi: np.ndarray, msi: np.ndarray, ratio: int, area: np.ndarray | None = None) -> FusionScene:
    fine = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 10.0, *msi.shape[1:])
    coarse = fine.coarsened(ratio)
    low = ArrayProduct(hsi, coarse, BandTable.make(np.linspace(450, 2300, hsi.shape[0])))
    high = ArrayProduct(msi, fine, BandTable.make(np.linspace(490, 830, msi.shape[0])))
    resampler = Resampler(coarse, coarse, DisplacementField.zero())
    return FusionScene(low, high, np.arange(hsi.shape[0]), resampler, coarse, ratio, Psf(1.0), area=area)


def run(scene: FusionScene, plan: TilePlan, method: FusionMethod | None = None, **options: object) -> np.ndarray:
    out = np.full((len(scene.bands), *scene.fine_grid.shape), -9.0, np.float32)

    def sink(row0: int, rows: np.ndarray) -> None:
        out[:, row0 : row0 + rows.shape[1]] = rows

    fuse_scene_tiles(scene, method or Repeat(), plan, sink, **options)  # type: ignore[arg-type]
    return out


def count(scene: FusionScene, plan: TilePlan, rows_done: int = 0) -> FusionStatistics:
    return fuse_scene_tiles(scene, Repeat(), plan, lambda *_: None, rows_done=rows_done)


def pair(height: int, width: int, ratio: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hsi = rng.random((3, height, width), dtype=np.float32) * 0.5
    return hsi, rng.random((2, height * ratio, width * ratio), dtype=np.float32) * 0.5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(8, 40), st.integers(8, 40), st.integers(2, 4), st.integers(4, 24), st.integers(0, 2),
    st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
)  # fmt: skip
def test_identity_comes_through_any_tiling(
    height: int, width: int, ratio: int, tile: int, half: int, halo: int, multiple: int, batch: int, workers: int
) -> None:
    hsi, msi = pair(height, width, ratio)
    plan = TilePlan(height, width, tile, 2 * half, halo, multiple)
    out = run(make_scene(hsi, msi, ratio), plan, batch=batch, workers=workers)
    expected = hsi.repeat(ratio, 1).repeat(ratio, 2) + 0.1 * msi[:1]
    np.testing.assert_allclose(out, expected, atol=3e-7)


def test_nodata_propagates_and_empty_tiles_are_skipped() -> None:
    hsi, msi = pair(32, 32, 3)
    hsi[:, :16] = np.nan
    hsi[1, 20, 5] = np.nan
    msi[0, 80, 60] = np.nan
    method = Repeat()
    scene = make_scene(hsi, msi, 3)
    out = run(scene, TilePlan(32, 32, 8), method)
    assert np.isnan(out[:, :48]).all()
    assert np.isnan(out[1, 60:63, 15:18]).all()
    assert np.isfinite(out[0, 60:63, 15:18]).all()
    assert np.isnan(out[:, 80, 60]).all()
    assert np.isnan(out).mean() == pytest.approx(0.5, abs=0.01)
    assert method.calls == 8  # the eight tiles of the upper half were never computed


def test_area_outside_is_nodata() -> None:
    hsi, msi = pair(16, 16, 2)
    area = np.zeros((32, 32), bool)
    area[4:12, 6:20] = True
    out = run(make_scene(hsi, msi, 2, area), TilePlan(16, 16, 8, 4))
    np.testing.assert_array_equal(np.isfinite(out[0]), area)


def test_unphysical_values_are_clipped_and_counted() -> None:
    hsi, msi = pair(8, 8, 2)
    hsi[0, 0, 0], hsi[0, 7, 7] = 7.0, -3.0
    out = run(make_scene(hsi, msi, 2), TilePlan(8, 8, 8))
    assert out.max() <= PHYSICAL_RANGE[1]
    assert out.min() >= PHYSICAL_RANGE[0]
    free = run(make_scene(hsi, msi, 2), TilePlan(8, 8, 8), clip=False)
    assert free.max() > 6.9


@given(st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_resuming_gives_the_same_bits(rows_before: int) -> None:
    hsi, msi = pair(30, 17, 2)
    scene, plan = make_scene(hsi, msi, 2), TilePlan(30, 17, 7, 4, 2)
    whole = run(scene, plan)
    finished = [plan.finished_rows(r) * 2 for r in range(plan.shape[0])]
    done = max([0, *[f for f in finished if f <= 2 * rows_before and f < 60]])
    rest = run(scene, plan, rows_done=done)
    assert count(scene, plan, rows_done=done).valid_pixels == count(scene, plan).valid_pixels
    np.testing.assert_array_equal(rest[:, done:], whole[:, done:])
    assert (rest[:, :done] == -9.0).all()


def test_low_resolution_strips_do_not_see_nodata_and_refuse_emptiness() -> None:
    hsi, msi = pair(40, 12, 3)
    msi[:, :30] = np.nan
    strips = list(make_scene(hsi, msi, 3).low_resolution_strips())
    assert all(np.isfinite(s.hsi).all() and np.isfinite(s.msi).all() for s in strips)
    valid = np.concatenate([s.valid for s in strips])
    assert not valid[:10].any()
    assert valid[12:].all()
    with pytest.raises(OverlapError, match="No pixel is valid"):
        list(make_scene(np.full_like(hsi, np.nan), msi, 3).low_resolution_strips())


@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 6, 10])
def test_strips_can_be_degraded_once_more_at_every_ratio(ratio: int) -> None:
    """A network's correction is tested on windows of a strip, one level down: what is left must be more than rims."""
    hsi, msi = pair(100, 12, ratio)
    strips = list(make_scene(hsi, msi, ratio).low_resolution_strips())
    assert strips[0].valid.shape[0] == max(32, 8 * ratio)
    assert sum(strip.valid.shape[0] for strip in strips) == 100


class Hungry(Repeat):
    """Runs out of GPU memory above a number of tiles."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        if hsi.shape[0] > self.limit:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().fuse(hsi, msi)


def test_every_method_gives_memory_back_near_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(row_jobs, "release_freed_memory", lambda *, above=0: limits.append(above))
    run(make_scene(*pair(24, 24, 3), 3), TilePlan(24, 24, 8), workers=2, memory=1_000_000)
    assert limits
    assert all(800_000 < limit < 1_000_000 for limit in limits)


def test_blocks_outside_the_msi_are_nodata() -> None:
    hsi, msi = pair(8, 8, 2)
    scene = make_scene(hsi, msi, 2)
    cube, cloud = scene.read_msi(Slice2D(-2, 4, -1, 8))
    assert cube.shape == (2, 12, 18)
    assert np.isnan(cube[:, :4]).all()
    assert np.isnan(cube[:, :, :2]).all()
    np.testing.assert_array_equal(cube[:, 4:, 2:], msi[:, :8])
    assert not cloud.any()


def test_a_finished_product_is_counted_without_fusing() -> None:
    hsi, msi = pair(20, 12, 3)
    msi[0, :30] = np.nan
    scene, plan = make_scene(hsi, msi, 3), TilePlan(20, 12, 5)
    whole, again = count(scene, plan), count(scene, plan, rows_done=60)
    assert (again.valid_pixels, again.total_pixels) == (whole.valid_pixels, whole.total_pixels) == (1080, 2160)
    assert whole.computed_pixels == 1080
    assert again.computed_pixels == 0


def test_stand_ins_under_a_mask_are_not_counted_as_clipped() -> None:
    hsi, msi = pair(8, 8, 2)
    hsi[0, :4] = 7.0
    msi[0, :8] = np.nan
    assert count(make_scene(hsi, msi, 2), TilePlan(8, 8, 8)).clipped == 0


def test_empty_bands_do_not_hide_the_others_from_the_fit() -> None:
    hsi, msi = pair(40, 12, 3)
    hsi[1] = np.nan
    assert all(strip.valid.all() for strip in make_scene(hsi, msi, 3).low_resolution_strips())


def test_the_fit_finds_a_small_valid_part_of_a_large_scene() -> None:
    hsi, msi = pair(700, 1000, 2)
    msi[:, : 2 * 680] = np.nan
    chosen = [s.valid.sum() for s in make_scene(hsi, msi, 2).low_resolution_strips()]
    assert sum(chosen) > 10_000


class Overcast(ArrayProduct):
    """An image that is all cloud to its own mask."""

    def cloud(self, block: Slice2D) -> np.ndarray:
        return np.ones(block.shape, bool)


def test_without_cloud_mask_an_overcast_scene_can_be_learned_from() -> None:
    hsi, msi = pair(16, 16, 2)
    clear = make_scene(hsi, msi, 2)
    high = Overcast(msi, clear.fine_grid, BandTable.make([490.0, 830.0]))
    scene = replace(clear, msi=high, mask_cloud=False)
    assert next(scene.low_resolution_strips()).valid.all()
    with pytest.raises(OverlapError, match="cloud"):
        next(replace(scene, mask_cloud=True).low_resolution_strips())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 2.5}, "integer of at least 2"),
        ({"srf": np.ones((3, 3))}, r"shape \(2, 3\)"),
        ({"resources": Resources("gpu")}, "no device 'gpu'"),
        ({"wavelengths_nm": [500.0, 600.0]}, "2 wavelengths"),
    ],
)
def test_arrays_that_do_not_fit_get_a_sentence(change: dict[str, object], message: str) -> None:
    hsi, msi = pair(16, 16, 2)
    arguments = {"ratio": 2, "method": "bicubic", "wavelengths_nm": [500.0, 600.0, 700.0]} | change
    with pytest.raises(UsageError, match=message):
        fuse(hsi, msi, **arguments)  # type: ignore[arg-type]


def test_first_rows_that_were_read_before_are_those_of_the_scene() -> None:
    """While a method learned; it may have found that it looks at fewer rows."""
    hsi, msi = pair(40, 33, 2)
    hsi[1, 3:5, 7] = np.nan
    scene = make_scene(hsi, msi, 2)
    moved = DisplacementField.shift(7.3, -4.1)
    scene = replace(scene, resampler=Resampler(scene.hsi.stored_pixels.grid, scene.grid, moved))
    rows, fewer = Slice2D(0, 20, 0, 33), Slice2D(0, 13, 0, 33)
    for wanted in (rows, fewer):
        with reading_first_rows(scene, rows) as reading:
            np.testing.assert_array_equal(reading.read_raw(wanted).hsi, scene.read_hsi(wanted))
            assert reading.first_rows is not None
            assert reading.first_rows.take(wanted) is None
    with reading_first_rows(scene, fewer) as reading:
        np.testing.assert_array_equal(reading.read_raw(rows).hsi, scene.read_hsi(rows))
    with reading_first_rows(scene, rows) as reading:
        np.testing.assert_array_equal(run(reading, TilePlan(40, 33, 16, 0, 2)), run(scene, TilePlan(40, 33, 16, 0, 2)))


@pytest.mark.parametrize(("tile", "halo", "start"), [(8, 2, 0), (8, 0, 1), (5, 9, 0), (5, 9, 2), (64, 3, 0)])
def test_strips_are_the_same_however_far_ahead_their_rows_are_read(tile: int, halo: int, start: int) -> None:
    hsi, msi = pair(40, 21, 2)
    hsi[1, 12:15, 7] = np.nan
    scene, plan = make_scene(hsi, msi, 2), TilePlan(40, 21, tile, 0, halo)
    one, ahead = (list(read_ahead(scene, plan, start, pieces=pieces)) for pieces in (0, 2))
    assert [number for number, _ in one] == [number for number, _ in ahead] == list(range(start, plan.shape[0]))
    for (_, expected), (_, found) in zip(one, ahead, strict=True):
        assert found.rows == expected.rows
        for name in ("hsi", "msi", "valid", "cloud"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
