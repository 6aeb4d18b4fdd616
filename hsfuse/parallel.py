"""Pieces of work side by side, in as many threads as a run may use.

Results come in the order of the items and do not depend on the number of threads.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from hsfuse.processor import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_allowed: list[int] = []
"""What each run that is going on may use."""


@contextmanager
def allowed_threads(count: int) -> Iterator[None]:
    """Let :func:`threads_for` give out so many threads: what the settings allow a run."""
    with _lock:
        _allowed.append(count)
    try:
        yield
    finally:
        with _lock:
            _allowed.remove(count)


def threads_for(most: int) -> int:
    """Return how many pieces of work may be done at a time, ``most`` at most.

    That is what the run may use (of several at a time: the one with the fewest), and all usable cores where none says.
    Results must not depend on it.
    """
    with _lock:
        return max(1, min(most, *(_allowed or (usable_cores(),))))


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield what ``work`` makes of each item, in the items' order, while so many threads are at work.

    Results do not depend on the number of threads, and no more than these and one more are held. Torch's operations
    have one thread each: several inside every small operation would wait for each other.
    """
    return map(work, items) if threads < 2 else ahead(work, items, threads)


def do_all(work: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Do ``work`` with each item, while so many threads are at work."""
    deque(side_by_side(work, items, threads), maxlen=0)


def together(*works: Callable[[], Any], threads: int) -> Iterator[Any]:
    """Yield the results of unlike pieces of work, in the order in which they were given; as :func:`side_by_side`."""
    return side_by_side(lambda work: work(), works, threads)


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what ``work`` makes of each item; another thread makes the next one while this one is looked at."""
    return ahead(work, items, 1)


def parts_of(size: int, count: int, unit: int = 1) -> list[slice]:
    """Cut rows into ``count`` pieces that begin at multiples of ``unit``; fewer where there are not enough."""
    step = max(-(-size // (count * unit)), 1) * unit
    return [slice(first, min(first + step, size)) for first in range(0, size, step)]


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield results in order, made by so many other threads; no more than these and one more are held."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="hsfuse-beside", initializer=_one_torch_thread) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one_torch_thread() -> None:
    # What does without torch does not load it for that.
    limit = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if limit is not None:
        limit(1)
