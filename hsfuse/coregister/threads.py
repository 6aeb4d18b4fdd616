"""Several pieces of work at a time: torch, NumPy and GDAL let go of the interpreter's lock while they compute.

Every operation itself runs in one thread (see :mod:`hsfuse.coregister.products`), and results are put together in a
fixed order, so they do not depend on which piece was finished first. The threads stay: matrix libraries keep buffers
of tens of megabytes for each thread that they have ever seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

from hsfuse.parallel import ahead, threads_for

In = TypeVar("In")
Out = TypeVar("Out")
Other = TypeVar("Other")

_WORTH_THREADS = 4
_MOST_BESIDE = 4
PARTS = 16
"""Pieces that an image is cut into, whatever the number of threads; also the most threads that work on them."""


def parallel_map(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Results of independent pieces of work, in order, several at a time.

    Two at a time at least, for one may wait for a file. The caller works too: what nobody has begun when its result is
    wanted, it does itself. So the work may use this function, and never waits for a thread.
    """
    pool = _pool("pieces", max(threads_for(PARTS) - 1, 1))
    waiting = deque((pool.submit(work, item), item) for item in items)
    try:
        while waiting:
            future, item = waiting.popleft()
            yield work(item) if future.cancel() else future.result()
    finally:
        for future, _ in waiting:
            future.cancel()


def spread(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """As :func:`parallel_map` where several cores are to spare; else here, one after the other.

    For small pieces between which threads would only be handed over.
    """
    return list(parallel_map(work, items) if threads_for(PARTS) >= _WORTH_THREADS else map(work, items))


def run_both(first: Callable[[], Out], second: Callable[[], Other]) -> tuple[Out, Other]:
    """Results of two pieces of work, see :func:`run_all`."""
    mine, beside = run_all(first, second)
    return mine, beside


def run_all(first: Callable[[], Any], *others: Callable[[], Any]) -> list[Any]:
    """Results of unlike pieces of work, which may use all functions here; the others run beside the caller.

    As in :func:`parallel_map` the caller does what nobody has begun.
    """
    futures = [_pool("beside", max(threads_for(_MOST_BESIDE + 1) - 1, 1)).submit(other) for other in others]
    try:
        found = [first()]
        found += [_result(future, other) for future, other in zip(futures, others, strict=True)]
    except BaseException:
        # Nothing stays behind that still works on arrays which the caller may change.
        wait([future for future in futures if not future.cancel()])
        raise
    return found


def _result(future: Future[Out], work: Callable[[], Out]) -> Out:
    return work() if future.cancel() else future.result()


def map_in_halves(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """Results of pieces of work that may use :func:`parallel_map`: every other one is done beside the caller."""
    mine, beside = run_both(lambda: [work(item) for item in items[::2]], lambda: [work(item) for item in items[1::2]])
    return [(beside if i % 2 else mine)[i // 2] for i in range(len(items))]


def prefetch(work: Callable[[In], Out], items: Iterable[In], most: int = 1) -> Iterator[tuple[In, Out]]:
    """Items and results in order; while the caller uses one, the next is made, or the next few, ``most`` at a time."""
    return ahead(lambda item: (item, work(item)), items, threads_for(most))


@cache
def _pool(name: str, size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=size, thread_name_prefix=f"hsfuse-{name}")
