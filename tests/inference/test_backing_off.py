"""A GPU that is too small for a tile: smaller ones follow, rows that are done stay, a later run goes on with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_device_pipeline import InstrumentedDevice
from test_engine import Repeat, make_scene, pair

from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.place import tile_places
from hsfuse.inference import pipeline
from hsfuse.inference.budget import Estimate
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tiling import TilePlan
from hsfuse.resources import Resources

HEIGHT, WIDTH, RATIO = 60, 80, 2
FITS = 400
"""HSI pixels: tiles of 20 with their context are more, tiles of 10 are less."""


class Greedy(Repeat):
    """Runs out of memory for more than so many HSI pixels a call, from some row of the scene on."""

    def __init__(self, pixels: int, below: int = 0) -> None:
        super().__init__()
        self.pixels, self.below = pixels, below

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        late = tile_places(len(hsi))[0][0] >= self.below
        if late and hsi.shape[0] * hsi.shape[2] * hsi.shape[3] > self.pixels:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().fuse(hsi, msi)


class Tilting(Greedy):
    """Not quite exact: what it adds depends a little on where a pixel lies in its tile, as with a network's halo."""

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        out = super().fuse(hsi, msi)
        return out + torch.linspace(0.0, 0.01, out.shape[-2])[:, None]


@pytest.fixture
def device() -> Iterator[InstrumentedDevice]:
    made = InstrumentedDevice()
    yield made
    made.close()


class Journal:
    """What was handed over, and the plan for what follows."""

    def __init__(self) -> None:
        self.out = np.full((3, HEIGHT * RATIO, WIDTH * RATIO), -9.0, np.float32)
        self.done = 0
        self.plans: list[TilePlan] = []

    def append(self, row0: int, data: np.ndarray) -> None:
        assert row0 == self.done, "rows follow one another"
        self.done = row0 + data.shape[1]
        self.out[:, row0 : self.done] = data


def fuse(
    scene: FusionScene, method: Repeat, plan: TilePlan, journal: Journal, device: Any, batch: int = 4
) -> FusionStatistics:
    return pipeline.fuse(
        scene, method, Estimate(plan, batch, 10**9, 10**9, 0.0, 0), journal.append, Resources(threads=1),
        rows_done=journal.done, changed=journal.plans.append, accelerator=device,
    )  # fmt: skip


@pytest.mark.parametrize("overlap", [0, 4])
def test_the_batch_is_halved_and_then_the_tile(
    overlap: int, device: InstrumentedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(*pair(HEIGHT, WIDTH, RATIO), RATIO)
    plan, journal, whole = TilePlan(HEIGHT, WIDTH, 20, overlap, 2), Journal(), Journal()
    with caplog.at_level(logging.WARNING):
        found = fuse(scene, Greedy(FITS, below=10), plan, journal, device)
    expected = fuse(scene, Repeat(), plan, whole, None)
    np.testing.assert_allclose(journal.out, whole.out, atol=3e-7)
    messages = [record.getMessage() for record in caplog.records]
    assert "going on with 1 tiles at a time" in messages[0]
    assert "The GPU ran out of memory on a single tile of" in messages[1]
    assert "rows that are left go on with tiles of 10" in messages[1]
    (smaller,) = journal.plans
    assert (smaller.tile, smaller.overlap) == (10, overlap)
    assert 0 < smaller.first_row < HEIGHT
    assert found.valid_pixels == found.computed_pixels == expected.valid_pixels == journal.out[0].size
    assert found.total_pixels == expected.total_pixels
    above = sum(plan.finished_rows(row) <= smaller.first_row for row in range(plan.shape[0]))
    assert found.tiles == above * plan.shape[1] + len(smaller)


def test_the_border_between_both_plans_is_a_seam_like_others(device: InstrumentedDevice) -> None:
    scene = make_scene(*pair(HEIGHT, WIDTH, RATIO), RATIO)
    plan, journal, exact = TilePlan(HEIGHT, WIDTH, 20, 4, 2), Journal(), Journal()
    fuse(scene, Tilting(FITS, below=10), plan, journal, device)
    fuse(scene, Repeat(), plan, exact, None)
    off = journal.out - exact.out
    step = np.abs(np.diff(off, axis=1)).max(axis=(0, 2))
    border = journal.plans[0].first_row * RATIO
    assert step[border - 1] <= 0.01, "no more than two tiles can differ by"
    assert off.min() >= -1e-6
    assert off.max() <= 0.01 + 1e-6


def test_a_run_that_is_interrupted_after_backing_off_goes_on_with_the_same_bytes(device: InstrumentedDevice) -> None:
    scene = make_scene(*pair(HEIGHT, WIDTH, RATIO), RATIO)
    plan, whole, parted = TilePlan(HEIGHT, WIDTH, 20, 4, 2), Journal(), Journal()
    fuse(scene, Tilting(FITS, below=10), plan, whole, device)
    stop = whole.plans[0].first_row * RATIO + 20

    class Interrupted(Journal):
        def append(self, row0: int, data: np.ndarray) -> None:
            if row0 >= stop:
                raise KeyboardInterrupt
            super().append(row0, data)

    parted = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        fuse(scene, Tilting(FITS, below=10), plan, parted, device)
    rest = Journal()
    rest.out, rest.done = parted.out, parted.done
    assert whole.plans[0].first_row * RATIO < rest.done < HEIGHT * RATIO
    fuse(scene, Tilting(FITS), TilePlan(**parted.plans[-1].to_dict()), rest, device, batch=2)
    np.testing.assert_array_equal(rest.out, whole.out)


def test_rows_that_end_nowhere_in_a_plan_are_kept(device: InstrumentedDevice) -> None:
    """A journal whose last plan was lost, or one that another machine began with other tiles."""
    scene = make_scene(*pair(HEIGHT, WIDTH, RATIO), RATIO)
    whole, rest = Journal(), Journal()
    fuse(scene, Repeat(), TilePlan(HEIGHT, WIDTH, 20, 4, 2), whole, None)
    rest.done = 14
    fuse(scene, Repeat(), TilePlan(HEIGHT, WIDTH, 20, 4, 2), rest, device)
    np.testing.assert_allclose(rest.out[:, 14:], whole.out[:, 14:], atol=3e-7)
    assert (rest.out[:, :14] == -9.0).all()


@pytest.mark.parametrize("overlap", [0, 4])
def test_the_smallest_tile_ends_the_run(overlap: int, device: InstrumentedDevice) -> None:
    scene = make_scene(*pair(HEIGHT, WIDTH, RATIO), RATIO)
    journal = Journal()
    with pytest.raises(MemoryBudgetError, match=r"on a single tile of .* the smallest there are") as caught:
        fuse(scene, Greedy(1), TilePlan(HEIGHT, WIDTH, 20, overlap, 2), journal, device)
    assert caught.value.exit_code == 6
    assert "--device cpu" in caught.value.hint
    assert [plan.tile for plan in journal.plans] == [10, 8]
    assert journal.done == 0


def test_halves_of_tiles_that_are_wider_than_high() -> None:
    plan = TilePlan(100, 100, 16, 0, 2, 1, 96)
    sides = []
    smaller: TilePlan | None = plan
    while smaller is not None:
        sides.append((smaller.tile, smaller.columns))
        smaller = smaller.halved()
    assert sides == [(16, 96), (8, 48), (8, 24), (8, 12), (8, 8)]
    assert replace(plan, tile=8, tile_width=None).halved() is None
