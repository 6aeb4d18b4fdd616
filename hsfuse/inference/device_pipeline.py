"""Batches of tiles through a device: cutting out, copying, computing, copying back and using results overlap.

::

    reader -> [cut out] -> upload -> compute -> download -> [use: blend, mask, encode] -> writer
               thread      stream    stream     stream       threads

A *slot* is host memory for one batch, its tiles and its results. There are :data:`CARD_SLOTS`; whoever wants to cut out
the next batch waits for one, so that no stage runs away from those after it. Batches are computed in the order in which
they were given, and what is made of a row of tiles does not depend on the order in which they are used.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.base import FusionMethod
from hsfuse.inference.accelerator import Accelerator, Mark
from hsfuse.inference.budget import CARD_SLOTS, SLOT_ROOM
from hsfuse.inference.graphs import TileGraphs
from hsfuse.inference.tile_batches import TileBatch
from hsfuse.inference.tiling import Tile
from hsfuse.log import get_logger
from hsfuse.parallel import threads_for

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
Use = Callable[[Tile, FloatCube], int]


class TileMemoryError(MemoryBudgetError):
    """The device's memory is too small for a single tile: smaller ones may fit."""


_MOST_USERS = 3
"""Threads that use results."""


@dataclass(eq=False)
class _Slot:
    """Host memory for one batch; it grows to the largest batch and is used again."""

    accelerator: Accelerator
    _memory: dict[str, torch.Tensor] = field(default_factory=dict)

    def buffer(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory of a shape; what was in it is lost."""
        wanted = math.prod(shape)
        known = self._memory.get(name)
        if known is None or known.numel() < wanted:
            # Tiles differ by a few rows and columns: memory that copies can run from is slow to get.
            known = self._memory[name] = self.accelerator.host_buffer((int(wanted * SLOT_ROOM),))
        return known[:wanted].view(shape)


@dataclass(eq=False)
class _Job:
    """A batch on its way: what becomes of each tile, and what to do with it."""

    batch: TileBatch
    use: Use
    futures: dict[Tile, Future[int]]


@dataclass(eq=False)
class _Flight:
    """A batch whose results are being copied back."""

    job: _Job
    slot: _Slot
    host: torch.Tensor
    mark: Mark


class DevicePipeline:
    """Fuses batches of tiles on a device, in order, while others are cut out, copied and used.

    Parameters
    ----------
    accelerator
        The device.
    method
        A fitted method, whose parameters lie on the device.
    batch
        Tiles per call; halved when the device runs out of memory.
    halved
        Called with the new number of tiles per call.
    slots
        Batches that exist at a time.
    """

    def __init__(
        self, accelerator: Accelerator, method: FusionMethod, batch: int, halved: Callable[[int], None],
        slots: int = CARD_SLOTS,
    ) -> None:  # fmt: skip
        self._accelerator, self._halved = accelerator, halved
        self._graphs = TileGraphs(method, accelerator.graphs())
        self.batch = batch
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self._slots.put(_Slot(accelerator))
        self._given: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._flying: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()
        # One thread could not keep up with a card: blending and encoding take longer than a small network.
        self._users = ThreadPoolExecutor(threads_for(_MOST_USERS), thread_name_prefix="hsfuse-use")
        self._failed, self._stopped = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._send, name="hsfuse-send", daemon=True),
            threading.Thread(target=self._receive, name="hsfuse-receive", daemon=True),
        ]

    def submit(self, batches: Sequence[TileBatch], use: Use) -> list[Future[int]]:
        """Give batches to the device; ``use`` takes each tile's result in a thread of the pipeline's."""
        futures: list[Future[int]] = []
        for batch in batches:
            own: dict[Tile, Future[int]] = {tile: Future() for tile in batch.tiles}
            futures += own.values()
            self._given.put(_Job(batch, use, own))
        return futures

    def __enter__(self) -> DevicePipeline:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stopped.set()
        self._given.put(None)
        for thread in self._threads:
            thread.join()
        self._users.shutdown()
        # A card that is lost says so once more: what ends the run is said already.
        with contextlib.suppress(RuntimeError) if kind is not None else contextlib.nullcontext():
            self._graphs.drop()

    def _send(self) -> None:
        """Cut out, queue copies and work, batch after batch."""
        while (job := self._given.get()) is not None:
            self._send_job(job)
        self._flying.put(None)

    def _send_job(self, job: _Job) -> None:
        waiting = [job]
        while waiting:
            one = waiting.pop(0)
            if self._failed.is_set() or self._stopped.is_set():
                _cancel(one)
                continue
            while len(one.batch.tiles) > self.batch:
                first, second = one.batch.halves()
                waiting.insert(0, _Job(second, one.use, one.futures))
                one = _Job(first, one.use, one.futures)
            try:
                self._fly(one)
            except BaseException as error:
                if self._retried(error, one):
                    waiting.insert(0, one)
                    continue
                self._fail(one, error)

    def _fly(self, job: _Job) -> None:
        slot = self._slots.get()
        try:
            batch = job.batch
            hsi, msi = slot.buffer("hsi", batch.hsi_shape), slot.buffer("msi", batch.msi_shape)
            batch.fill(hsi.numpy(), msi.numpy())
            (on_hsi, hsi_there), (on_msi, msi_there) = (self._accelerator.upload(host) for host in (hsi, msi))
            window = batch.window.slices

            def work() -> torch.Tensor:
                return self._graphs.fuse(on_hsi, on_msi, window, batch.places)

            result, computed = self._accelerator.compute(work, (hsi_there, msi_there))
            host = slot.buffer("result", tuple(result.shape))
            mark = self._accelerator.download(result, host, computed)
        except BaseException:
            self._slots.put(slot)
            raise
        self._flying.put(_Flight(job, slot, host, mark))

    def _retried(self, error: BaseException, job: _Job) -> bool:
        """Halve the number of tiles per call after the device ran out of memory; False for any other error."""
        if not self._accelerator.out_of_memory(error):
            return False
        # What the failed call had made so far lives in its frames.
        traceback.clear_frames(error.__traceback__)
        self._graphs.drop()
        self._accelerator.release_memory()
        if len(job.batch.tiles) == 1:
            shape = " x ".join(map(str, job.batch.tiles[0].read.shape))
            self._fail(
                job,
                TileMemoryError(
                    f"The GPU ran out of memory on a single tile of {shape} HSI pixels.",
                    hint="Choose a smaller --tile, a lower --precision, or --device cpu.",
                ),
            )
            return False
        self.batch = max(len(job.batch.tiles) // 2, 1)
        self._halved(self.batch)
        _log.warning("The GPU ran out of memory; going on with %d tiles at a time.", self.batch)
        return True

    def _receive(self) -> None:
        """Use results in the order in which batches were given."""
        while (flight := self._flying.get()) is not None:
            job = flight.job
            try:
                if self._stopped.is_set():
                    _cancel(job)
                    self._slots.put(flight.slot)
                    continue
                self._accelerator.wait(flight.mark)
            except BaseException as error:
                self._fail(job, error)
                self._slots.put(flight.slot)
                continue
            self._users.submit(self._use, flight)

    def _use(self, flight: _Flight) -> None:
        """Use a batch's results and give its slot back."""
        job = flight.job
        try:
            for tile, data in zip(job.batch.tiles, job.batch.results(flight.host.numpy()), strict=True):
                if job.futures[tile].set_running_or_notify_cancel():
                    job.futures[tile].set_result(job.use(tile, data))
        except BaseException as error:
            self._fail(job, error)
        finally:
            self._slots.put(flight.slot)

    def _fail(self, job: _Job, error: BaseException) -> None:
        """Nothing after a batch that failed is begun: whoever waits for it ends the run."""
        self._failed.set()
        for tile in job.batch.tiles:
            future = job.futures[tile]
            if not future.done():
                with contextlib.suppress(InvalidStateError):  # given up in this very moment
                    future.set_exception(error)


def _cancel(job: _Job) -> None:
    for tile in job.batch.tiles:
        job.futures[tile].cancel()
