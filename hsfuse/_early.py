"""Starting to import torch while other work is done: its libraries and modules take a second on one core."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_LIBRARIES = ("libtorch_cpu.so", "libtorch_python.so")
_SWITCH_S = 0.0005
"""Threads that only now and then need the interpreter's lock should not wait for it long."""


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
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    ended, wanted = threading.Event(), threading.Event()
    gc.disable()

    def work() -> None:
        try:
            _load_libraries()
            ended.wait()
            if wanted.is_set():
                sys.setswitchinterval(_SWITCH_S)
                # What is wrong with an installation is said by the import that needs it.
                with contextlib.suppress(Exception):
                    importlib.import_module("torch")
        finally:
            sys.setswitchinterval(interval)
            if collecting:
                gc.freeze()
                gc.enable()

    threading.Thread(target=work, name="import torch", daemon=True).start()
    try:
        yield
        wanted.set()
    finally:
        ended.set()


def _load_libraries() -> None:
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _LIBRARIES:
            path = Path(folder) / "lib" / name
            if path.is_file():
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(path))
