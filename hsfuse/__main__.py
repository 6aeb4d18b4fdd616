"""The process behind ``hsfuse`` and ``python -m hsfuse``: a quick start and a quick end around the command."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading

from hsfuse._early import load_torch_libraries
from hsfuse.allocator import share_one_arena
from hsfuse.process import own_process

_COMMANDS_WITH_TORCH = frozenset({"run", "coregister", "compare", "train-reduced", "demo"})
_COMMANDS_WITH_LARGE_ARRAYS = frozenset({"run", "demo"})
_HELP = frozenset({"-h", "--help"})
_COMPILED = (
    "array", "bisect", "bz2", "contextvars", "csv", "datetime", "decimal", "fcntl", "hashlib", "heapq", "inspect",
    "json", "lzma", "random", "resource", "secrets", "select", "socket", "subprocess", "uuid", "zlib", "zoneinfo",
)  # fmt: skip


def main() -> None:
    """Run the command that the arguments name and leave with its exit code."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments and _HELP.isdisjoint(arguments) else ""
    own_process(keep_freed_memory=command in _COMMANDS_WITH_LARGE_ARRAYS, one_blas_thread=command == "coregister")
    if command in _COMMANDS_WITH_TORCH:
        share_one_arena()
        ask_loader_first()
        load_torch_libraries()
    from hsfuse.cli.app import app

    try:
        app()
    except SystemExit as leaving:
        if isinstance(leaving.code, int):
            _leave(leaving.code)
        raise


def ask_loader_first() -> None:
    """Import what has compiled parts and is needed by every command.

    Torch's libraries can then be loaded while the command line is being set up, which would otherwise wait for them:
    the system's loader serves one at a time.
    """
    for name in _COMPILED:
        with contextlib.suppress(ImportError):  # Not every system has all of them.
            importlib.import_module(name)
    # The first validator looks a function of the system up.
    importlib.import_module("pydantic_core").SchemaValidator({"type": "dict"})


def _leave(code: int) -> None:
    """End the process as the interpreter would, but without taking every object apart first, which takes long.

    Threads are joined and what was registered for the exit is run; files are closed by then. Returns, for the usual
    way out, where an interpreter has no such functions or the output cannot be written any more.
    """
    join_threads = getattr(threading, "_shutdown", None)
    run_registered = getattr(atexit, "_run_exitfuncs", None)
    if join_threads is None or run_registered is None:
        return
    join_threads()
    run_registered()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


if __name__ == "__main__":
    main()
