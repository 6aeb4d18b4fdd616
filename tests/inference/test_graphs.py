"""Recorded work: one capture for each shape, results of the plain path, a bound, and plain work where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_device_pipeline import InstrumentedDevice
from test_engine import Hungry, Repeat, make_scene, pair, run

from hsfuse.fusion.place import tile_places
from hsfuse.inference import graphs
from hsfuse.inference.graphs import SWITCH, TileGraphs, cuda_graphs
from hsfuse.inference.tiling import TilePlan


class Recorder:
    """Records by keeping the work: as with CUDA, recording computes nothing that could be seen."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.captures = self.replays = self.settled = self.forgotten = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.error is not None:
            raise self.error
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def settle(self) -> None:
        self.settled += 1

    def forget(self) -> None:
        self.forgotten += 1


def batch(side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, tuple[slice, slice]]:
    hsi, msi = (torch.from_numpy(array)[None] for array in pair(side, side, 2, seed))
    return hsi, msi, (slice(1, side - 1), slice(0, side))


def fused(work: TileGraphs, side: int, seed: int = 0) -> torch.Tensor:
    return work.fuse(*batch(side, seed), [(0, 0)])


def test_a_shape_is_captured_once_and_replayed_with_the_bytes_of_the_plain_path() -> None:
    recorder = Recorder()
    work = TileGraphs(Repeat(), recorder)
    found = [fused(work, 6, seed) for seed in range(4)]
    assert (recorder.captures, recorder.replays) == (1, 3), "the first one runs plainly"
    for seed, result in enumerate(found):  # results are their own: a later replay changes none of them
        hsi, msi, window = batch(6, seed)
        torch.testing.assert_close(result, Repeat().fuse_window(hsi, msi, window), rtol=0, atol=0)
    fused(work, 8)
    fused(work, 8)
    assert recorder.captures == 2


def test_the_graph_that_was_not_used_for_longest_is_dropped() -> None:
    recorder = Recorder()
    work = TileGraphs(Repeat(), recorder, kept=2)
    for side in (6, 8, 6, 8, 6, 10, 10):  # captured: 6, 8; then 10 drops 8
        fused(work, side)
    assert (recorder.captures, len(work), recorder.settled) == (3, 2, 1)
    fused(work, 6)
    assert recorder.captures == 3
    fused(work, 8)
    assert recorder.captures == 4


@pytest.mark.parametrize(
    ("error", "why"),
    [(RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore"), "operation not permitted"),
     (torch.cuda.OutOfMemoryError("CUDA out of memory."), "too little GPU memory")],
)  # fmt: skip
def test_a_capture_that_fails_leaves_the_plain_path(
    error: Exception, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = TileGraphs(Repeat(), Recorder(error))
    with caplog.at_level(logging.WARNING):
        results = [fused(work, 6) for _ in range(4)]
    assert len(caplog.records) == 1, "tried once"
    assert why in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
    for result in results:
        torch.testing.assert_close(result, Repeat().fuse_window(*batch(6)), rtol=0, atol=0)


def test_what_depends_on_a_tiles_place_is_not_recorded() -> None:
    class Random(Repeat):
        def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
            return super().fuse(hsi, msi) + tile_places(len(hsi))[0][0]

    recorder = Recorder()
    work = TileGraphs(Random(), recorder)
    first, second = (work.fuse(*batch(6), [(row, 0)]) for row in (0, 5))
    third = work.fuse(*batch(6), [(7, 0)])
    assert recorder.captures == 0
    torch.testing.assert_close(second - first, torch.full_like(first, 5.0))
    torch.testing.assert_close(third - first, torch.full_like(first, 7.0))


def test_a_scene_by_recorded_work_is_that_of_the_plain_path() -> None:
    hsi, msi = pair(30, 41, 2)
    plan, recorder = TilePlan(30, 41, 9, 4, 2, 2), Recorder()
    device, plain = InstrumentedDevice(recorder=recorder), InstrumentedDevice()
    try:
        out = run(make_scene(hsi, msi, 2), plan, accelerator=device, batch=2)
        np.testing.assert_array_equal(out, run(make_scene(hsi, msi, 2), plan, accelerator=plain, batch=2))
    finally:
        device.close()
        plain.close()
    assert recorder.captures
    assert recorder.replays > recorder.captures


def test_graphs_are_dropped_when_memory_runs_out() -> None:
    hsi, msi = pair(8, 64, 2)
    recorder = Recorder()
    device = InstrumentedDevice(recorder=recorder)
    try:
        out = run(make_scene(hsi, msi, 2), TilePlan(8, 64, 8), Hungry(3), batch=8, accelerator=device)
    finally:
        device.close()
    np.testing.assert_array_equal(out, run(make_scene(hsi, msi, 2), TilePlan(8, 64, 8)))
    assert (recorder.forgotten, device.released) == (3, 2), "and once at the end"


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "CudaGraphs", lambda stream: (stream, "recorder"))
    assert cuda_graphs("stream") == ("stream", "recorder")
    monkeypatch.setenv(SWITCH, "off")
    assert cuda_graphs("stream") is None
