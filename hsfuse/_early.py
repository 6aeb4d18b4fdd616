"""Starting to import torch while other work is done: its libraries and modules take a second on one core."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

_LIBRARIES = ("libtorch_cpu.so", "libtorch_python.so")
_SWITCH_S = 0.0005
_started: list[threading.Thread] = []
_turns_lock = threading.Lock()
_turns: list[float] = []
"""The interpreter's own interval, once for each body of :func:`short_turns` that runs."""


@contextlib.contextmanager
def torch_beside() -> Iterator[None]:
    """Load torch's libraries while the body imports other modules; then import torch in a thread of its own.

    A later ``import torch`` waits for that thread. The libraries are loaded first, which does not hold the
    interpreter's lock. Torch's own modules wait for the body's, because two threads that both import spend a quarter
    of their time on handing the lock over. Until torch is there, the garbage collector rests: an import only makes
    objects that stay, and looking through them takes a tenth of its time. A body that fails needs no torch.
    """
    if "torch" in sys.modules:
        yield
        return
    load_torch_libraries()
    collecting = gc.isenabled()
    ended, wanted = threading.Event(), threading.Event()
    gc.disable()

    def work() -> None:
        try:
            load_torch_libraries().join()
            ended.wait()
            if wanted.is_set():
                # What is wrong with an installation is said by the import that needs it.
                with short_turns(), contextlib.suppress(Exception):
                    importlib.import_module("torch")
        finally:
            if collecting:
                gc.freeze()
                gc.enable()

    _start(work, "import torch")
    try:
        yield
        wanted.set()
    finally:
        ended.set()


def import_torch() -> None:
    """Import torch in a process of our own, beside threads that compute; does nothing where it is imported already."""
    if "torch" not in sys.modules:
        with resting_collector(), short_turns():
            importlib.import_module("torch")


@contextlib.contextmanager
def resting_collector(*, own: bool = True) -> Iterator[None]:
    """No garbage collection while the body imports, nor later of what was there at its end.

    An import only makes objects that stay: looking through them takes a tenth of its time. In a process that is not
    our ``own`` nothing changes.
    """
    if not own:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.freeze()
            gc.enable()


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let threads that compute, and only now and then need the interpreter's lock, not wait long for the body."""
    with _turns_lock:
        if not _turns:
            _turns.append(sys.getswitchinterval())
            sys.setswitchinterval(_SWITCH_S)
        else:
            _turns.append(_turns[0])
    try:
        yield
    finally:
        with _turns_lock:
            interval = _turns.pop()
            if not _turns:
                sys.setswitchinterval(interval)


@cache
def load_torch_libraries() -> threading.Thread:
    """Start to load torch's shared libraries, which needs no turn of the interpreter; the same thread each time."""
    return _start(_load_libraries, "load torch")


def _start(work: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    _started.append(thread)
    return thread


def wait_for_loading() -> None:
    """Wait for threads that load libraries: a process must not end in the middle of that."""
    for thread in _started:
        thread.join()


def _load_libraries() -> None:
    spec = importlib.util.find_spec("torch")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    found = [path for folder in folders for name in _LIBRARIES if (path := Path(folder) / "lib" / name).is_file()]
    # Called as a function of the C library: ctypes.CDLL keeps the interpreter's lock before Python 3.13.
    dlopen = getattr(ctypes.CDLL(None), "dlopen", None) if found else None
    if dlopen is None:
        return
    dlopen.restype = ctypes.c_void_p
    for path in found:
        # What does not load here is loaded, or complained about, by the import.
        dlopen(ctypes.c_char_p(os.fsencode(path)), ctypes.c_int(os.RTLD_NOW))
