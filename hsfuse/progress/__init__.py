"""One progress protocol: a live display on a terminal, below a notebook's cell, in lines elsewhere; nothing when quiet.

Library code calls ``progress.stage("fuse", total=n)`` and ``advance``; a run also says which stages are to come
(:func:`expect`), so that they are numbered and the whole is estimated from the first second. Which display a user sees
is decided once, by the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hsfuse.progress.lines import LineProgress
from hsfuse.progress.notebook import NotebookProgress, in_notebook
from hsfuse.progress.protocol import (
    Progress,
    SilentProgress,
    Stage,
    Step,
    Within,
    close,
    expect,
    format_seconds,
    note,
    open_display,
    say_above,
)
from hsfuse.progress.terminal import RichProgress

__all__ = [
    "LineProgress", "NotebookProgress", "Progress", "RichProgress", "SilentProgress", "Stage", "Step", "Within",
    "close", "default_progress", "expect", "format_seconds", "note", "open_display",
    "progress_here", "say_above",
]  # fmt: skip


def default_progress(*, quiet: bool = False, enabled: bool = True) -> Progress:
    """Pick the right kind: silent when quiet, a live display on a terminal, lines elsewhere."""
    if quiet or not enabled or sys.stderr is None:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else LineProgress()


@contextmanager
def progress_here(wanted: Progress | None) -> Iterator[Progress]:
    """What a function of the Python interface shows: what was handed in, else a bar in a notebook, else nothing.

    What is made here is closed at the end.
    """
    if wanted is not None:
        yield wanted
        return
    own: Progress = NotebookProgress() if in_notebook() else SilentProgress()
    try:
        yield own
    finally:
        close(own)
