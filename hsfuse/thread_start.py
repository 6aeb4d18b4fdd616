"""Threads that cannot start say so.

A new thread needs a little memory before its first line is run. Where there is none, it ends without a word, and
``threading.Thread.start``, which waits for that first line, waits for ever (CPython 3.11 to 3.14 at least).
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

_STARTERS = ("_start_new_thread", "_start_joinable_thread")
"""How :mod:`threading` asks for a thread: until Python 3.12, and since."""
_LOOK_S = 0.05


class _Token:
    """Belongs to a thread alone, so that its end tells of the thread's."""


def raise_where_threads_cannot_start() -> None:
    """Let ``Thread.start`` raise ``RuntimeError``, as where the system refuses a thread; for own processes only."""
    for name in _STARTERS:
        start = getattr(threading, name, None)
        if start is not None and not isinstance(start, partial):
            setattr(threading, name, partial(_start, start))


def _start(start: Callable[..., Any], function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    thread = getattr(function, "__self__", None)
    started = getattr(thread, "_started", None)
    if not isinstance(started, threading.Event):
        return start(function, *arguments, **named)
    token = _Token()
    # What hears of the token's end is no Python code: the thread has no memory to run any.
    ended: deque[object] = deque()
    watch = weakref.ref(token, ended.append)
    work = partial(_run, started, function, token)
    del token
    answer = start(work, *arguments, **named)
    del work
    while not started.wait(_LOOK_S):
        if ended and not started.is_set():
            raise RuntimeError("can't start new thread: it found no memory")
    del watch
    return answer


def _run(started: threading.Event, function: Callable[..., Any], _token: _Token, *arguments: Any, **named: Any) -> Any:
    try:
        return function(*arguments, **named)
    except Exception:
        # Of a thread that could not start, whoever started it hears.
        if started.is_set():
            raise
