"""The process behind ``hsfuse`` and ``python -m hsfuse``: a quick start around the command."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from hsfuse._early import load_torch_libraries, wait_for_loading

_COMMANDS_WITH_TORCH = frozenset({"run", "coregister", "compare", "train-reduced", "demo"})
_COMMANDS_WITH_TORCH_LATER = frozenset({"batch", "train-prior", "doctor"})
_COMMANDS_WITH_ARRAYS = frozenset({"info", "bands", "view", "simulate", "mosaic", "models", "batch-status"})
_COMMANDS_WITHOUT_FUSION = frozenset({"coregister", "doctor"})
"""Of those with torch."""
_COMMANDS_WITH_LARGE_ARRAYS = frozenset({"run", "demo"})
_PLANS = frozenset({"--dry-run", "--dry-run=quick"})
_SHORT_OF_MEMORY = 6
"""Exit code of :class:`hsfuse.errors.MemoryBudgetError`."""
_HELP = frozenset({"-h", "--help"})
_COMPILED = (
    "array", "bisect", "bz2", "contextvars", "csv", "datetime", "decimal", "fcntl", "hashlib", "heapq", "inspect",
    "json", "lzma", "random", "resource", "secrets", "select", "socket", "subprocess", "uuid", "zlib", "zoneinfo",
)  # fmt: skip


def main() -> None:
    """Run the command that the arguments name and leave with its exit code."""
    try:
        _prepare(sys.argv[1:])
        from hsfuse.cli.app import app

        app()
    except Exception as error:
        # There is no command yet, or none any more: a system with too little of something says so here.
        sys.exit(_told(error, sys.argv[1:]))
    except BaseException as leaving:
        from hsfuse.cli.streams import say

        if isinstance(leaving, KeyboardInterrupt):
            say("interrupted")
            sys.exit(130)
        code = getattr(leaving, "exit_code", None)
        if code is None:
            raise
        say(f"stopped by {leaving}")
        sys.exit(code)
    finally:
        from hsfuse.cli.signals import die_at_signals

        ending = sys.exc_info()[1]
        if isinstance(ending, SystemExit) and ending.code == _SHORT_OF_MEMORY:
            _leave_at_once(_SHORT_OF_MEMORY)
        wait_for_loading()
        die_at_signals()
        if isinstance(ending, SystemExit) and isinstance(ending.code, int | None) and "torch" in sys.modules:
            _leave_without_taking_apart(ending.code or 0)


def _leave_without_taking_apart(code: int) -> None:
    """End the process when all that is left is to take a thousand modules apart, which takes most of a second.

    Threads are waited for, and what is registered for the end runs. Where a stream does not take what is left in it,
    the interpreter ends in its own way, and says so.
    """
    wait_for_threads = getattr(threading, "_shutdown", None)
    if wait_for_threads is None:
        return
    wait_for_threads()
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _leave_at_once(code: int) -> NoReturn:
    """Leave without waiting for threads: one that found no memory may never end, in a loader or a library."""
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(code)


def _told(error: Exception, arguments: Sequence[str]) -> int:
    """Say what went wrong where no command does; return its exit code."""
    from hsfuse.cli.streams import say
    from hsfuse.errors import explained

    found = explained(error)
    try:
        from hsfuse.cli.group import reported

        return reported(found, arguments)
    except Exception:  # What is short may be short for that, too.
        say(f"error: {found.message}\nhint: {found.hint}")
        return found.exit_code


def _prepare(arguments: Sequence[str]) -> None:
    """Set this process up for the command."""
    from hsfuse.address_space import is_tight
    from hsfuse.allocator import share_one_arena
    from hsfuse.cli.signals import end_on_signals
    from hsfuse.cli.streams import prepare_streams
    from hsfuse.process import own_process
    from hsfuse.processor import usable_cores

    prepare_streams()
    command = arguments[0] if arguments and _HELP.isdisjoint(arguments) else ""
    # A plan does without torch.
    with_torch = command in _COMMANDS_WITH_TORCH and _PLANS.isdisjoint(arguments)
    if command in _COMMANDS_WITH_TORCH | _COMMANDS_WITH_TORCH_LATER | _COMMANDS_WITH_ARRAYS:
        loads = with_torch or command in _COMMANDS_WITH_TORCH_LATER
        _check_room(command, with_torch=loads, fuses=loads and command not in _COMMANDS_WITHOUT_FUSION)
    end_on_signals()
    own_process(
        keep_freed_memory=command in _COMMANDS_WITH_LARGE_ARRAYS,
        one_blas_thread=command == "coregister" or is_tight(usable_cores()),
    )
    if with_torch:
        share_one_arena()
        ask_loader_first()
        load_torch_libraries()


def _check_room(command: str, *, with_torch: bool, fuses: bool) -> None:
    """Make sure that a command can load its libraries and begin: some of them do not survive it when it cannot."""
    from hsfuse.address_space import limit, needed

    allowed = limit()
    if allowed is None:
        return
    least = needed(with_torch=with_torch, fuses=fuses)
    if allowed < least:
        from hsfuse.errors import MemoryBudgetError

        raise MemoryBudgetError(
            f"The limit of the address space, {allowed >> 20} MB, is too low: hsfuse {command} needs {least >> 20} MB "
            "to load its libraries and begin, and more for the data.",
            hint="Raise the limit (ulimit -v), or lift it (ulimit -v unlimited).",
        )


def ask_loader_first() -> None:
    """Import what has compiled parts and is needed by every command.

    Torch's libraries can then be loaded while the command line is being set up, which would otherwise wait for them:
    the system's loader serves one at a time.
    """
    for name in _COMPILED:
        with contextlib.suppress(ImportError):  # Not every system has all of them.
            importlib.import_module(name)
    importlib.import_module("psutil")
    # The first validator looks a function of the system up.
    importlib.import_module("pydantic_core").SchemaValidator({"type": "dict"})


if __name__ == "__main__":
    main()
