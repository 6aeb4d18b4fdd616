"""Several pieces of work at a time: torch, NumPy and GDAL let go of the interpreter's lock while they compute.

Every operation itself runs in one thread (see :mod:`hsfuse.coregister.products`), and results are put together in a
fixed order, so they do not depend on which piece was finished first. The threads stay: matrix libraries keep buffers
of tens of megabytes for each thread that they have ever seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from hsfuse.parallel import one_ahead, threads_for

In = TypeVar("In")
Out = TypeVar("Out")
Other = TypeVar("Other")

_WORTH_THREADS = 4
PARTS = 8
"""Pieces that an image is cut into, whatever the number of threads; also the most threads that work on them."""


def parallel_map(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Results of independent pieces of work, in order, several at a time; the work must not use this function.

    Two at a time at least, for one may wait for a file.
    """
    yield from _pool("pieces", max(threads_for(PARTS), 2)).map(work, items)


def spread(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """As :func:`parallel_map` where several cores are to spare; else here, one after the other.

    For small pieces between which threads would only be handed over.
    """
    return list(parallel_map(work, items) if threads_for(PARTS) >= _WORTH_THREADS else map(work, items))


def run_both(first: Callable[[], Out], second: Callable[[], Other]) -> tuple[Out, Other]:
    """Results of two pieces of work, which may use :func:`parallel_map`; the second one runs beside the caller."""
    beside = _pool("beside", 1).submit(second)
    try:
        mine = first()
    except BaseException:
        # Nothing stays behind that still works on arrays which the caller may change.
        wait([beside])
        raise
    return mine, beside.result()


def map_in_halves(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """Results of pieces of work that may use :func:`parallel_map`: every other one is done beside the caller."""
    mine, beside = run_both(lambda: [work(item) for item in items[::2]], lambda: [work(item) for item in items[1::2]])
    return [(beside if i % 2 else mine)[i // 2] for i in range(len(items))]


def prefetch(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[tuple[In, Out]]:
    """Items and results in order; while the caller uses one, the next is made."""
    return one_ahead(lambda item: (item, work(item)), items)


@cache
def _pool(name: str, size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=size, thread_name_prefix=f"hsfuse-{name}")
