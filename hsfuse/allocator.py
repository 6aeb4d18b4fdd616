"""Settings of the C library's allocator that large arrays need, for processes that belong to hsfuse.

By default glibc takes every block above a few megabytes from the kernel and gives it back when it is freed, so
each temporary array is paid for twice: once for its arithmetic and once for the kernel to clear its pages. Fusing
and judging a scene spent a quarter of their time there.

Nothing here acts unless :func:`keep_freed_memory` was called, which :mod:`hsfuse.process` does for the command line.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from hsfuse.log import get_logger
from hsfuse.resources import held_bytes

_log = get_logger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEEP_BYTES = 1 << 30
_APART_BYTES = 32 << 20
_kept = False
"""Whether this process keeps what it frees."""


@lru_cache
def _of_glibc(name: str) -> Callable[..., Any] | None:
    """Return a function of the C library's allocator; None where that is not glibc's."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found


def keep_freed_memory() -> bool:
    """Make this process use freed memory again instead of giving it back; False where that is not glibc's choice.

    All threads share one arena: those of threads cannot hold blocks above 64 MB, and each would keep its own.
    """
    global _kept

    mallopt = _of_glibc("mallopt")
    if mallopt is None or _kept:
        return _kept
    _kept = bool(
        mallopt(_ARENA_MAX, 1) and mallopt(_MMAP_THRESHOLD, _KEEP_BYTES) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    )
    _log.debug("allocator: freed memory is kept: %s", _kept)
    return _kept


def share_one_arena() -> bool:
    """Make all threads take memory from one place; False where that is not glibc's choice.

    Each arena keeps what its threads have freed. For work that allocates the same sizes in turn from several threads
    that is twice the memory for nothing. Threads that already have an arena keep it, so this is called early.
    """
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(_ARENA_MAX, 1))


def give_back() -> None:
    """Return freed memory to the system: what one stage has freed is of the wrong sizes for the next."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def release_freed_memory(*, above: int = 0) -> None:
    """Give back what was kept: between stages that need memory of other shapes.

    With ``above`` only where the process holds more than so many bytes, for what goes back has to be cleared again.
    """
    if _kept and not (above and held_bytes() <= above):
        give_back()


@contextmanager
def large_arrays_apart() -> Iterator[None]:
    """Inside the block, what is larger than 32 MB comes from the kernel and goes straight back.

    Tiles of many shapes would leave gaps of that size in memory. What they compute beside is smaller, and kept.
    """
    mallopt = _of_glibc("mallopt") if _kept else None
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _APART_BYTES)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _KEEP_BYTES)
