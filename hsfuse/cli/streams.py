"""Standard streams that may be closed, full, or of an encoding that lacks a letter."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from hsfuse.errors import OutputError


def prepare_streams() -> None:
    """Set up the standard streams of the command line's own process.

    Descriptors that the caller closed are opened on nothing: else the next file, perhaps the product, would take the
    number, and what a library prints would go into it. Letters that the terminal's encoding lacks are escaped.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def say(text: str) -> None:
    """Write a line to standard error; nothing happens where nobody can be told."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def deliver(text: str, *, end: str = "\n") -> None:
    """Write a result to standard output.

    A reader that has gone away, such as ``head``, wants no more: that is no error.

    Raises
    ------
    OutputError
        The result cannot be written.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:
        return
    try:
        stream.write(text + end)
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except (OSError, ValueError) as error:
        silence(stream)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(
            f"The result cannot be written to standard output: {why}.",
            hint="Send the output elsewhere; what was written to files is complete.",
        ) from error


def silence(stream: TextIO) -> None:
    """Let the rest of a stream go nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
