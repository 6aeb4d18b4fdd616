"""The process behind ``hsfuse`` and ``python -m hsfuse``: a quick start around the command."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

from hsfuse._early import load_torch_libraries, wait_for_loading

_COMMANDS_WITH_TORCH = frozenset({"run", "coregister", "compare", "train-reduced", "demo"})
_COMMANDS_WITH_LARGE_ARRAYS = frozenset({"run", "demo"})
_PLANS = frozenset({"--dry-run", "--dry-run=quick"})
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
    except KeyboardInterrupt:
        from hsfuse.cli.streams import say

        say("interrupted")
        wait_for_loading()
        sys.exit(130)
    except Exception as error:
        # Nothing is set up yet: a system with too little of something says so here.
        sys.exit(_told(error))
    try:
        app()
    finally:
        wait_for_loading()


def _told(error: Exception) -> int:
    """Say what went wrong before there was a command; return its exit code."""
    from hsfuse.cli.streams import say
    from hsfuse.errors import explained

    found = explained(error)
    say(f"error: {found.message}\nhint: {found.hint}")
    return found.exit_code


def _prepare(arguments: Sequence[str]) -> None:
    """Set this process up for the command."""
    from hsfuse.allocator import share_one_arena
    from hsfuse.cli.signals import end_on_signals
    from hsfuse.cli.streams import prepare_streams
    from hsfuse.process import own_process

    prepare_streams()
    end_on_signals()
    command = arguments[0] if arguments and _HELP.isdisjoint(arguments) else ""
    own_process(keep_freed_memory=command in _COMMANDS_WITH_LARGE_ARRAYS, one_blas_thread=command == "coregister")
    # A plan does without torch.
    if command in _COMMANDS_WITH_TORCH and _PLANS.isdisjoint(arguments):
        share_one_arena()
        ask_loader_first()
        load_torch_libraries()


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
