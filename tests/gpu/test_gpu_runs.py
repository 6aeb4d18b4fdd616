"""A scene tile by tile on a GPU: seams, resume, full memory, streams. The engine is the one that a run uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_support import Maker
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.fusion.base import FusionMethod
from hsfuse.inference.accelerator import accelerator_for
from hsfuse.inference.engine import fuse_scene_tiles
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.tiling import TilePlan
from hsfuse.spectral import BandTable
from hsfuse.testing.scene import SmallScene
from hsfuse.workflows.steps.array_scene import ArrayProduct

pytestmark = pytest.mark.gpu
SEAM = 5e-5
"""Half a step of the stored integers, in reflectance."""
TOLERANCE = 2e-4
FloatCube = NDArray[np.float32]


def tiled(
    method: FusionMethod, scene: SmallScene, device: str, tile: int, *, batch: int = 2, done: int = 0,
    starts: list[int] | None = None,
) -> FloatCube:  # fmt: skip
    """Fuse the scene in tiles of so many HSI pixels, without the first rows; note where parts begin."""
    msi = BandTable.make(np.array([490.0, 560.0, 665.0, 842.0]))
    low, high = (ArrayProduct(scene.hsi, scene.grid, scene.bands), ArrayProduct(scene.msi, scene.fine_grid, msi))
    resampler = Resampler(scene.grid, scene.grid, DisplacementField.zero())
    opened = FusionScene(low, high, np.arange(len(scene.bands)), resampler, scene.grid, scene.ratio, scene.psf)
    spec, (rows, cols) = method.spec, scene.grid.shape
    plan = TilePlan(rows, cols, tile, spec.overlap_px, spec.halo_px, spec.multiple_px, padded=spec.padded)
    out = np.full(scene.truth.shape, -9.0, np.float32)

    def sink(row0: int, part: FloatCube) -> None:
        out[:, row0 : row0 + part.shape[1]] = part
        if starts is not None:
            starts.append(row0)

    fuse_scene_tiles(opened, method, plan, sink, batch=batch, rows_done=done, accelerator=accelerator_for(device))
    return out


@pytest.mark.smoke
def test_tiles_leave_no_seams(device: str, fitted: Maker, scene: SmallScene) -> None:
    method = fitted("glp", device)
    whole, tiles = (tiled(method, scene, device, tile) for tile in (24, 8))
    assert np.abs(whole - tiles).max() <= SEAM


@pytest.mark.parametrize("name", ["glp", "ssrfn-lite", "ssrfn"])
def test_tiles_are_those_of_the_cpu(name: str, device: str, fitted: Maker, scene: SmallScene) -> None:
    """Seams of trained networks are for ``tests/e2e``: with random weights they tell nothing."""
    expected = tiled(fitted(name, "cpu"), scene, "cpu", 8)
    assert np.abs(tiled(fitted(name, device), scene, device, 8) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["glp", "ssrfn-lite"])
def test_an_interrupted_scene_goes_on_with_the_same_rows(
    name: str, device: str, fitted: Maker, scene: SmallScene
) -> None:
    method = fitted(name, device)
    starts: list[int] = []
    whole = tiled(method, scene, device, 8, starts=starts)
    rest = tiled(method, scene, device, 8, done=starts[1])
    assert np.array_equal(rest[:, starts[1] :], whole[:, starts[1] :])


@pytest.mark.parametrize("name", ["glp", "ssrfn-lite"])
def test_streams_that_overlap_change_nothing(name: str, card: str, fitted: Maker, scene: SmallScene) -> None:
    """Copies and work run in streams of their own: a missing wait would show as other numbers now and then."""
    method = fitted(name, card)
    first = tiled(method, scene, card, 4, batch=1)
    for _ in range(5):
        assert np.array_equal(tiled(method, scene, card, 4, batch=1), first)


def test_a_full_card_takes_fewer_tiles_at_a_time(
    card: str, fitted: Maker, scene: SmallScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = fitted("glp", card)
    expected = tiled(method, scene, card, 8, batch=1)
    whole, shapes = type(method).fuse, []

    def hungry(self: FusionMethod, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        if hsi.shape[0] > 1:
            # The card is asked for more than it has: the error is CUDA's own.
            torch.empty(1 << 45, dtype=torch.uint8, device=card)
        shapes.append(hsi.shape[0])
        return whole(self, hsi, msi)

    monkeypatch.setattr(type(method), "fuse", hungry)
    np.testing.assert_allclose(tiled(method, scene, card, 8, batch=4), expected, atol=1e-6)
    assert set(shapes) == {1}
