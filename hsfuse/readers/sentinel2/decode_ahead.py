"""Decoding blocks before they are asked for: images take longest to decode, and other work leaves cores idle."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from hsfuse.log import get_logger

_log = get_logger(__name__)

_MAX_WORKERS = 16

Block = tuple[str, int, int]
"""Layer, row and column of one of its stored blocks."""


class DecodeAhead:
    """Threads that decode blocks in the order in which they are expected.

    Parameters
    ----------
    ready
        Entered by each thread, for datasets must not be shared; gives what decodes a block there.
    workers
        Threads.
    """

    def __init__(self, ready: Callable[[], AbstractContextManager[Callable[[Block], None]]], workers: int) -> None:
        self._ready, self._workers = ready, max(1, min(_MAX_WORKERS, workers))
        self._blocks: deque[Block] = deque()
        self._running = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="s2-ahead")

    def expect(self, blocks: Iterable[Block]) -> None:
        """Line up blocks behind those that were expected before."""
        with self._lock:
            self._blocks.extend(blocks)
            more = max(min(self._workers, len(self._blocks)) - self._running, 0)
            self._running += more
        for _ in range(more):
            self._threads.submit(self._work)

    def close(self) -> None:
        """Forget what is not decoded yet and end the threads."""
        with self._lock:
            self._blocks.clear()
        self._threads.shutdown(wait=True)

    def _work(self) -> None:
        try:
            with self._ready() as decode:
                while (block := self._next()) is not None:
                    decode(block)
        except Exception as error:
            # Whoever needs the block meets the same error, and knows what to say about it.
            _log.debug("no blocks are decoded ahead any more: %s", error)
            with self._lock:
                self._blocks.clear()
        finally:
            with self._lock:
                self._running -= 1

    def _next(self) -> Block | None:
        with self._lock:
            return self._blocks.popleft() if self._blocks else None
