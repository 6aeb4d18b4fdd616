"""One progress protocol: a bar on a terminal, a line per 5 % in a log file, nothing when quiet.

Library code calls ``progress.stage("fuse", total=n)`` and ``advance``; which of the three a user sees is
decided once, by the command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, TextIO


class Stage(Protocol):
    """A running stage that can be advanced."""

    def advance(self, amount: float = 1.0) -> None:
        """Say that ``amount`` of the stage's total is done."""
        ...


class Progress(Protocol):
    """Something that shows stages."""

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[Stage]:
        """Open a stage called ``name`` with ``total`` units of work; use it in a ``with`` statement."""
        ...


class _SilentStage:
    def advance(self, amount: float = 1.0) -> None:
        """Ignore the call."""


class SilentProgress:
    """Shows nothing (library default, ``--quiet``)."""

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:  # noqa: ARG002
        """Open a stage that shows nothing."""
        yield _SilentStage()


def format_seconds(seconds: float) -> str:
    """Return ``7 s``, ``2 min 05 s`` or ``1 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _write(stream: TextIO, text: str) -> None:
    """Write progress; work goes on where nobody can see it, because the stream is closed or its disk full."""
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


class _LineStage:
    def __init__(self, stream: TextIO, label: str, total: float) -> None:
        self._stream, self._label, self._total = stream, label, max(total, 1e-9)
        self._done, self._shown, self._start = 0.0, 0, time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        """Write a line each time another 5 % is done."""
        self._done += amount
        percent = int(100 * min(self._done / self._total, 1.0)) // 5 * 5
        if percent > self._shown and percent < 100:
            self._shown = percent
            spent = time.monotonic() - self._start
            left = spent * (self._total - self._done) / self._done
            _write(self._stream, f"{self._label}: {percent} %, about {format_seconds(left)} left\n")


class LineProgress:
    """A line per 5 % and one at the end of each stage: what a log file or SLURM output wants."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage that reports in lines."""
        start = time.monotonic()
        yield _LineStage(self._stream, name, total)
        _write(self._stream, f"{name}: done in {format_seconds(time.monotonic() - start)}\n")


class RichProgress:
    """A live bar on a terminal, one row per stage, with the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage that draws a bar."""
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichBar(*columns, console=self._console) as bar:
            task = bar.add_task(name, total=max(total, 1e-9))

            class _BarStage:
                def advance(self, amount: float = 1.0) -> None:
                    bar.advance(task, amount)

            yield _BarStage()
            bar.update(task, completed=max(total, 1e-9))


def default_progress(*, quiet: bool = False, enabled: bool = True) -> Progress:
    """Pick the right kind: silent when quiet, a bar on a terminal, lines elsewhere."""
    if quiet or not enabled:
        return SilentProgress()
    if sys.stderr is None:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else LineProgress()
