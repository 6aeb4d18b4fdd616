"""Batches through a device: stages overlap, memory is bounded, results are the serial path's, faults lose nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import Hungry, Repeat, make_scene, pair, run

from hsfuse.errors import MemoryBudgetError, explained
from hsfuse.inference import row_jobs
from hsfuse.inference.budget import CARD_SLOTS
from hsfuse.inference.engine import fuse_scene_tiles
from hsfuse.inference.row_jobs import RowJob
from hsfuse.inference.tiling import TilePlan

STEPS = ("host_buffer", "upload", "compute", "download", "wait")


class InstrumentedDevice:
    """A device whose queues are threads: it notes when each step ran, how many buffers exist, and fails where told.

    Parameters
    ----------
    seconds
        How long each copy and each piece of work takes.
    fail
        Step that fails, and the number of the call that does.
    recorder
        What stands for CUDA graphs.
    """

    def __init__(self, seconds: float = 0.0, fail: tuple[str, int] | None = None, recorder: Any = None) -> None:
        self.seconds, self.fail, self.recorder = seconds, fail, recorder
        self.released = 0
        self.spans: list[tuple[str, float, float]] = []
        self.buffers = 0
        self.calls = dict.fromkeys(STEPS, 0)
        self.memory = threading.Lock()
        self.queues = {name: ThreadPoolExecutor(1, thread_name_prefix=f"device-{name}") for name in STEPS[1:4]}

    def close(self) -> None:
        for pool in self.queues.values():
            pool.shutdown()

    def _count(self, step: str) -> None:
        self.calls[step] += 1
        if self.fail == (step, self.calls[step]):
            raise RuntimeError(f"the device is lost in {step}")

    def _queue(self, step: str, work: Callable[[], Any], *after: Any) -> Any:
        self._count(step)

        def timed() -> Any:
            for mark in after:
                mark.result()
            start = time.perf_counter()
            result = work()
            time.sleep(self.seconds)
            self.spans.append((step, start, time.perf_counter()))
            return result

        return self.queues[step].submit(timed)

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        self._count("host_buffer")
        self.buffers += 1
        return torch.full(shape, torch.nan)

    def upload(self, host: torch.Tensor) -> tuple[torch.Tensor, Any]:
        target = torch.zeros_like(host)

        def copy() -> None:
            with self.memory:
                target.copy_(host)

        return target, self._queue("upload", copy)

    def compute(self, work: Callable[[], torch.Tensor], after: tuple[Any, ...]) -> tuple[torch.Tensor, Any]:
        # As on a GPU the shape is known before the work is done: here by doing it on what is there already.
        # Nothing may be copied there meanwhile: a number that changes under a comparison with itself looks like NaN.
        with self.memory:
            shape = work().shape
        target = torch.full(shape, torch.nan)

        def compute() -> None:
            # A stream does one piece of work at a time: recorded work of all shapes shares its memory.
            with self.memory:
                target.copy_(work())

        return target, self._queue("compute", compute, *after)

    def download(self, result: torch.Tensor, host: torch.Tensor, after: Any) -> Any:
        return self._queue("download", lambda: host.copy_(result), after)

    def wait(self, mark: Any) -> None:
        self._count("wait")
        mark.result()

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, torch.cuda.OutOfMemoryError)

    def release_memory(self) -> None:
        self.released += 1

    def graphs(self) -> Any:
        return self.recorder


@pytest.fixture
def device_of() -> Any:
    made: list[InstrumentedDevice] = []

    def make(**options: Any) -> InstrumentedDevice:
        made.append(InstrumentedDevice(**options))
        return made[-1]

    yield make
    for device in made:
        device.close()


def _threads() -> set[str]:
    """Threads of a pipeline: none may be left."""
    return {thread.name for thread in threading.enumerate() if thread.name in ("hsfuse-send", "hsfuse-receive")}


@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_results_equal_those_of_the_serial_path_bit_for_bit(
    device_of: Any, overlap: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a device all tiles are alike; the serial path is to have the same ones.
    monkeypatch.setattr(row_jobs, "tiles_around", lambda plan, row, _: list(plan.row_of_tiles(row)))
    hsi, msi = pair(30, 41, 2)
    hsi[:, 5:9, 3:20] = np.nan
    plan = TilePlan(30, 41, 9, overlap, 2, 2)
    serial = run(make_scene(hsi, msi, 2), plan)
    device = device_of()
    np.testing.assert_array_equal(run(make_scene(hsi, msi, 2), plan, accelerator=device, batch=batch), serial)
    assert not _threads()


def test_no_more_buffers_exist_than_slots_hold(device_of: Any) -> None:
    hsi, msi = pair(64, 64, 2)
    device = device_of()
    run(make_scene(hsi, msi, 2), TilePlan(64, 64, 8), accelerator=device, batch=2)
    assert device.calls["compute"] == 32
    # HSI, MSI and result of each slot; all tiles are alike, so none had to grow.
    assert device.buffers <= 3 * CARD_SLOTS


def test_stages_overlap(device_of: Any) -> None:
    hsi, msi = pair(32, 32, 2)
    device = device_of(seconds=0.01)
    run(make_scene(hsi, msi, 2), TilePlan(32, 32, 8), accelerator=device)
    for first, second in (("upload", "compute"), ("compute", "download")):
        ones = [span for span in device.spans if span[0] == first]
        others = [span for span in device.spans if span[0] == second]
        assert any(a[1] < b[2] and b[1] < a[2] for a in ones for b in others), (first, second)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("call", [1, 4])
def test_a_fault_at_any_step_is_what_the_caller_sees(device_of: Any, step: str, call: int) -> None:
    hsi, msi = pair(24, 32, 2)
    rows: list[int] = []
    scene, plan = make_scene(hsi, msi, 2), TilePlan(24, 32, 8)
    device = device_of(fail=(step, call))
    with pytest.raises(RuntimeError, match=f"the device is lost in {step}"):
        fuse_scene_tiles(scene, Repeat(), plan, lambda row0, _: rows.append(row0), accelerator=device)
    assert not _threads()
    assert rows == sorted(rows)
    # What was handed over before stays; the run goes on from there.
    done = 16 * len(rows)
    out = np.full((3, 48, 64), np.nan, np.float32)
    fuse_scene_tiles(
        scene, Repeat(), plan, lambda row0, data: out[:, row0 : row0 + data.shape[1]].__setitem__(..., data),
        accelerator=device_of(), rows_done=done,
    )  # fmt: skip
    np.testing.assert_array_equal(out[:, done:], run(scene, plan)[:, done:])


LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"


class LostCard(InstrumentedDevice):
    """From some call on, everything that is asked of it fails: as CUDA does once a card is lost."""

    def _count(self, step: str) -> None:
        super()._count(step)
        if self.calls["compute"] >= 3:
            raise RuntimeError(LOST)

    def capture(self, _: object) -> None:
        raise RuntimeError(LOST)

    def settle(self) -> None:
        raise RuntimeError(LOST)


def test_after_a_lost_card_the_cpu_goes_on_with_the_rows_that_are_done() -> None:
    hsi, msi = pair(24, 32, 2)
    scene, plan = make_scene(hsi, msi, 2), TilePlan(24, 32, 8)
    out, done = np.full((3, 48, 64), np.nan, np.float32), 0

    def keep(row0: int, data: np.ndarray) -> None:
        nonlocal done
        out[:, row0 : row0 + data.shape[1]] = data
        done = row0 + data.shape[1]

    card = LostCard()
    card.recorder = card
    try:
        with pytest.raises(RuntimeError, match="unspecified launch failure") as caught:
            fuse_scene_tiles(scene, Repeat(), plan, keep, accelerator=card, batch=4)
    finally:
        card.close()
    error = explained(caught.value)
    assert error.exit_code == 11
    assert error.message == "The GPU failed: CUDA error: unspecified launch failure."
    assert "--resume" in error.hint
    assert not _threads()
    fuse_scene_tiles(scene, Repeat(), plan, keep, rows_done=done)
    np.testing.assert_array_equal(out, run(scene, plan))


def test_a_fault_where_results_are_used_ends_the_run(device_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hsi, msi = pair(24, 32, 2)

    def broken(*_: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(RowJob, "encode", broken)
    with pytest.raises(OSError, match="no space left"):
        run(make_scene(hsi, msi, 2), TilePlan(24, 32, 8), accelerator=device_of())
    assert not _threads()


def test_batch_is_halved_when_the_device_is_full(device_of: Any) -> None:
    hsi, msi = pair(8, 64, 2)
    method = Hungry(3)
    out = run(make_scene(hsi, msi, 2), TilePlan(8, 64, 8), method, batch=8, accelerator=device_of())
    np.testing.assert_array_equal(out, run(make_scene(hsi, msi, 2), TilePlan(8, 64, 8)))
    assert max(shape[0] for shape in method.shapes) == 2
    with pytest.raises(MemoryBudgetError, match="single tile"):
        run(make_scene(hsi, msi, 2), TilePlan(8, 64, 8), Hungry(0), batch=8, accelerator=device_of())
