"""Progress in lines: what a log file, a pipe or SLURM's output wants."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from hsfuse.progress.protocol import Stage, Step, format_seconds
from hsfuse.progress.tracker import TOLD_S, ProgressTracker

_EVERY = 5
"""Percent between lines."""


class LineProgress:
    """A line at the begin and the end of each stage, and one for every 5 % of the run between.

    Without a plan (see :meth:`expect`) the percentages are those of the stage.

    Parameters
    ----------
    stream
        Where lines go; None: what standard error is at the time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._tracker = ProgressTracker()
        self._shown = 0

    def expect(self, steps: Sequence[Step]) -> None:
        """Say which stages are to come."""
        self._tracker.expect(steps)

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage that reports in lines."""
        tracker = self._tracker
        tracker.begin(name, total)
        start, state = time.monotonic(), tracker.state()
        planned = tracker.label(name) != name
        known = planned or state.left is None
        if planned:
            left = f"; about {format_seconds(state.left)} left" if state.left else ""
            self._write(f"{tracker.label(name)}: {state.text or name}{left}")
        yield _LineStage(self, name, total, planned)
        tracker.end(name)
        took = time.monotonic() - start
        if known or took >= TOLD_S:
            self._write(f"{tracker.label(name)}: done in {format_seconds(took)}")

    def advanced(self, name: str, amount: float) -> None:
        """Count what a stage did, and write a line where the run got on by 5 %."""
        self._tracker.advance(name, amount)
        state = self._tracker.state()
        percent = int(100 * (state.fraction or 0.0)) // _EVERY * _EVERY
        if self._shown < percent < 100:
            self._shown = percent
            self._write(f"{percent} % of the run ({self._tracker.label(name)}), about "
                        f"{format_seconds(state.left or 0.0)} left")  # fmt: skip

    def _write(self, text: str) -> None:
        """Write progress; work goes on where nobody can see it, because the stream is closed or its disk full."""
        stream = self._stream or sys.stderr
        with suppress(OSError, ValueError, AttributeError):
            stream.write(text + "\n")
            stream.flush()


class _LineStage:
    def __init__(self, progress: LineProgress, name: str, total: float, planned: bool) -> None:
        self._progress, self._name, self._total, self._planned = progress, name, max(total, 1e-9), planned
        self._done, self._shown, self._start = 0.0, 0, time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        """Write a line each time another 5 % is done."""
        self._done += amount
        if self._planned:
            self._progress.advanced(self._name, amount)
            return
        percent = int(100 * min(self._done / self._total, 1.0)) // _EVERY * _EVERY
        if self._shown < percent < 100:
            self._shown = percent
            spent = time.monotonic() - self._start
            left = spent * (self._total - self._done) / self._done
            self._progress._write(f"{self._name}: {percent} %, about {format_seconds(left)} left")
