"""How many threads work: pieces of work side by side, and fewer threads inside libraries for a while.

Whoever called gets back what was set before.

Counts of threads belong to the whole process. Several runs at a time therefore count themselves in and out: the last
one to leave restores what the first one found.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from hsfuse.processor import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_allowed: list[int] = []
"""What each run that is going on may use."""
_torch_users = 0
_torch_found = 1
_blas_users = 0
_blas_limits: list[threadpool_limits] = []


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


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch operations of this thread, and of those that begin to use torch meanwhile, work with ``count``."""
    global _torch_users, _torch_found

    import torch

    with _lock:
        found = torch.get_num_threads()
        if _torch_users == 0:
            _torch_found = found
        _torch_users += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            _torch_users -= 1
            # A thread that never used torch before found what another run had set.
            torch.set_num_threads(found if _torch_users else _torch_found)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let the matrix libraries that are loaded work with one thread.

    Their products are small here: threads would wait for each other more than they work.
    """
    global _blas_users

    with _lock:
        _blas_users += 1
        # Each limits the libraries that were loaded since the one before as well.
        _blas_limits.append(threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            _blas_users -= 1
            while _blas_users == 0 and _blas_limits:
                _blas_limits.pop().restore_original_limits()


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield what ``work`` makes of each item, in the items' order, while so many threads are at work.

    Results do not depend on the number of threads, and no more than these and one more are held. Torch's operations
    have one thread each: several inside every small operation would wait for each other.
    """
    if threads < 2:
        yield from map(work, items)
        return
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


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what ``work`` makes of each item; another thread makes the next one while this one is looked at."""
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-ahead", initializer=_one_torch_thread) as pool:
        waiting: Future[Result] | None = None
        for item in items:
            ready, waiting = waiting, pool.submit(work, item)
            if ready is not None:
                yield ready.result()
                del ready
        if waiting is not None:
            yield waiting.result()


def _one_torch_thread() -> None:
    # What does without torch does not load it for that.
    limit = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if limit is not None:
        limit(1)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch's operations and for matrix libraries; Python's own threads may still run side by side."""
    with ExitStack() as stack:
        stack.enter_context(torch_threads(1))
        stack.enter_context(one_blas_thread())
        yield
