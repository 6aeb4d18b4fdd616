"""Starting to import torch while other work is done: its libraries and modules take a second on one core."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import sys
import threading
from pathlib import Path

_LIBRARIES = ("libtorch_cpu.so", "libtorch_python.so")
_SWITCH_S = 0.0005
"""Threads that only now and then need the interpreter's lock should not wait for it long."""


def import_torch_beside() -> None:
    """Begin to import torch in a thread of its own; a later ``import torch`` waits for it.

    The libraries are loaded first, which does not hold the interpreter's lock. Until torch is there, the garbage
    collector rests: a import only makes objects that stay, and looking through them takes a tenth of its time.
    """
    if "torch" in sys.modules:
        return
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(_SWITCH_S)

    def work() -> None:
        try:
            _load_libraries()
            # What is wrong with an installation is said by the import that needs it.
            with contextlib.suppress(Exception):
                importlib.import_module("torch")
        finally:
            sys.setswitchinterval(interval)
            if collecting:
                gc.freeze()
                gc.enable()

    threading.Thread(target=work, name="import torch", daemon=True).start()


def _load_libraries() -> None:
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _LIBRARIES:
            path = Path(folder) / "lib" / name
            if path.is_file():
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(path))
