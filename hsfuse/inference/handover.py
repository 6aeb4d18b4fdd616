"""Finished rows on their way out: buffers, and the thread that gives them to the sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.writers.encoding import SampleEncoding

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Sink = Callable[[int, NDArray[Any]], None]
"""Takes (first fine row, samples of shape (band, row, col)), in order, top to bottom, from a thread of its own.

The samples are reflectance in float32 with NaN for nodata, or what an encoder made of them; they may be read until
the call returns.
"""


class RowEncoder(Protocol):
    """RowPipeline reflectance into the samples that the sink takes; see :class:`hsfuse.writers.SampleEncoding`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples."""
        ...

    def encode_into(
        self, reflectance: FloatCube, valid: BoolArray, out: NDArray[Any], limits: tuple[float, float] | None = None
    ) -> int:
        """Mask, clip and encode (band, row, col) into ``out``; return the number of samples outside the limits."""
        ...


class Handover:
    """Buffers of finished rows, band interleaved by line, and the thread that gives them to the sink."""

    def __init__(self, sink: Sink, shape: tuple[int, int], encoder: RowEncoder | None, *, single: bool) -> None:
        self._sink, self._shape, self._single = sink, shape, single
        self.encoder: RowEncoder = encoder or SampleEncoding.of("float32")
        self._free: deque[NDArray[Any]] = deque()
        self._waiting: Future[None] | None = None
        self._given: NDArray[Any] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hsfuse-writer")

    def buffer(self, rows: int) -> NDArray[Any]:
        """Return memory for some rows, shape (row, band, col): the only one, or one of two that take turns.

        There is no second one as long as the sink is done with the first before it is asked for again.
        """
        if self._single or (self._waiting is not None and self._waiting.done()):
            self._finish()
        for index, known in enumerate(self._free):
            if known.shape[0] >= rows:
                del self._free[index]
                return known
        if self._free:
            self._free.popleft()  # too small for the rows that are still to come as well
        return np.empty((rows, *self._shape), self.encoder.dtype)

    def give(self, row0: int, rows: int, buffer: NDArray[Any]) -> None:
        """Pass the first ``rows`` of a buffer to the sink, once it has taken those before."""
        self._finish()
        self._given = buffer
        self._waiting = self._pool.submit(self._sink, row0, buffer[:rows].transpose(1, 0, 2))

    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()
        if self._given is not None:
            self._free.append(self._given)
            self._given = None

    def __enter__(self) -> Handover:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Rows on their way are written all the same: they count after --resume.
            self._pool.shutdown(wait=True)


class LateBuffer:
    """Memory for finished rows, taken with the first result and not before: the sink may still read those above."""

    def __init__(self, take: Callable[[], NDArray[Any]]) -> None:
        self._take, self._lock = take, Lock()
        self._taken: NDArray[Any] | None = None

    def __call__(self) -> NDArray[Any]:
        """Take the memory, once; the same each time."""
        with self._lock:
            if self._taken is None:
                self._taken = self._take()
            return self._taken
