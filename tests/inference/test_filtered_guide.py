"""A guide that is filtered once for the scene: the same result as in tiles, whatever these are; gaps stay gaps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hsfuse.degrade import Psf
from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import RefinedMethod
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.grid import Slice2D
from hsfuse.inference import filtered_guide, pipeline
from hsfuse.inference.filtered_guide import FilteredMsi
from hsfuse.inference.scene import FusionScene
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import array_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, Pair, make_pair

GAP = (slice(0, 12), slice(0, 15))
Fitted = tuple[FusionScene, RefinedMethod]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    pair: Pair = make_pair((44, 48), seed=3)
    msi = pair.msi.copy()
    msi[:, *GAP] = np.nan
    scene = array_scene(pair.hsi, msi, BandTable.make(pair.centre_nm), None, RATIO, Psf(1.0), pair.srf)
    method = RefinedMethod(create_method("glp"), "standard", ratio=RATIO)
    pipeline.fit(method.fit, scene, pipeline.scene_context(scene, "cpu", 0))
    assert method.refinement is not None
    assert method.refinement.used == "clean"
    return scene, method


def _fused(fitted: Fitted, tile: int | None = None, threads: int = 1) -> NDArray[np.float32]:
    scene, method = fitted
    return pipeline.fitted_to_array(method, scene, Resources(threads=threads), tile=tile)


def test_result_is_that_of_filtering_tile_by_tile(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(RefinedMethod, "guide_filter", lambda _: None)
        expected = _fused(fitted)
    monkeypatch.setattr(filtered_guide, "_BLOCK_PX", (16, 24))
    for tile, threads in ((None, 1), (36, 2)):
        found = _fused(fitted, tile, threads)
        assert np.isnan(found[:, *GAP]).all()
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        difference = np.abs(found - expected)
        # Beside a gap, what stands in for it depends on the block that is filled.
        difference[:, :40, :45] = 0.0
        assert float(np.nanmax(difference)) < 1e-4


def test_methods_may_see_the_guide_as_it_came_too(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = fitted
    method = GateMethod.untrained(validate=False)
    pipeline.fit(method.fit, scene, pipeline.scene_context(scene, "cpu", 0))
    first = method.guide_filter()
    assert first is not None
    assert first.keeps_raw
    found = pipeline.fitted_to_array(method, scene, Resources(threads=1))
    monkeypatch.setattr(GateMethod, "guide_filter", lambda _: None)
    expected = pipeline.fitted_to_array(method, scene, Resources(threads=1))
    assert np.isnan(found[:, *GAP]).all()
    difference = np.abs(found - expected)
    difference[:, :40, :45] = 0.0
    assert float(np.nanmax(difference)) < 1e-4


def test_a_card_with_little_memory_filters_in_parts(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, method = fitted
    first = method.guide_filter()
    assert first is not None
    monkeypatch.setattr(filtered_guide, "_CARD_BLOCK_PX", (40, 48))
    whole, seen = FilteredMsi(scene, first, around_px=4, workers=1, device="meta"), []

    def apply(image: torch.Tensor, wanted: NDArray[np.bool_] | None) -> torch.Tensor:
        seen.append(image.shape[2] // RATIO)
        if image.shape[2] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return first.apply(image, wanted)

    def read(rows_px: int) -> NDArray[np.float32]:
        nonlocal limit
        limit = rows_px * RATIO
        msi = FilteredMsi(scene, replace(first, apply=apply), around_px=4, workers=1)
        monkeypatch.setattr(msi, "_boxes", whole._boxes)
        return msi.read(scene.msi.grid.full)

    limit = 10**6
    expected = read(10**6)
    seen.clear()
    found = read(36)
    assert seen[0] > 36, "it was not too much at first"
    difference = np.abs(found - expected)
    # Beside a gap, what stands in for it depends on the block that is filled.
    difference[:, :40, :45] = 0.0
    assert float(np.nanmax(difference)) < 1e-4
    with pytest.raises(MemoryBudgetError, match="HSI pixels of the guide"):
        read(4)


def test_blocks_depend_on_no_strip(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is gone on with begins at any row."""
    monkeypatch.setattr(filtered_guide, "_BLOCK_PX", (16, 24))
    scene, method = fitted
    whole, parts = (filtered_guide.filter_guide(scene, method, 1)[0].msi for _ in range(2))
    every = whole.read(Slice2D(0, 132, 0, 144))
    assert np.isnan(every[:, *GAP]).all()
    assert not np.array_equal(every, scene.msi.read(Slice2D(0, 132, 0, 144)), equal_nan=True)
    for rows in (slice(90, 132), slice(0, 7), slice(50, 100)):
        part = parts.read(Slice2D(rows.start, rows.stop, 9, 144), [2, 0])
        assert np.array_equal(part, every[[2, 0], rows, 9:], equal_nan=True)


def test_methods_without_a_filter_get_the_guide_as_it_is(fitted: Fitted) -> None:
    scene, method = fitted
    assert filtered_guide.filter_guide(scene, method.inner, 1) == (scene, method.inner)
    guide = method.guide_filter()
    assert guide is not None
    assert guide.method.guide_filter() is None
    assert guide.method.spec.halo_px == method.spec.halo_px - guide.halo_px
