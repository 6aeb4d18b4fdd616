"""Fewer threads inside libraries for a while; whoever called gets back what was set before.

Counts of threads belong to the whole process. Several runs at a time therefore count themselves in and out: the last
one to leave restores what the first one found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_torch_users = 0
_torch_found = 1
_blas_users = 0
_blas_limits: list[threadpool_limits] = []


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


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch's operations and for matrix libraries; Python's own threads may still run side by side."""
    with ExitStack() as stack:
        stack.enter_context(torch_threads(1))
        stack.enter_context(one_blas_thread())
        yield
