"""Files whose lock says that somebody is at work; it is gone when their process is, however that ended.

File systems without locks, some network ones, are taken as if nobody else were there: what is guarded must be whole
without a lock, which only spares work done twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_S = 0.1
"""Longer than it takes to ask whether a file is locked."""


def open_locked(path: Path) -> int:
    """Open a lock file, made when missing, and take its lock until the handle and its copies are closed.

    Raises
    ------
    BlockingIOError
        Somebody else has it.
    OSError
        The file can be neither opened nor made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + _LOOK_S
    while True:
        try:
            _flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(handle)
                raise
        # Who only asks whether it is locked holds it for a moment.
        time.sleep(_LOOK_S / 10)


def is_locked(handle: int) -> bool:
    """Whether somebody else has the lock of an open file."""
    try:
        _flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    _flock(handle, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def locked(handle: int) -> Iterator[None]:
    """Wait for the lock of an open file and hold it during the body."""
    _flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _flock(handle, fcntl.LOCK_UN)


def _flock(handle: int, operation: int) -> None:
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise
    except OSError:
        # No locks here.
        return
