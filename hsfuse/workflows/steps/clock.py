"""Seconds and peak memory of each stage, recorded on the way to the progress display."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hsfuse.progress import Progress, SilentProgress, Stage


def peak_memory_bytes() -> int:
    """Highest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class StageClock:
    """A :class:`~hsfuse.progress.Progress` that also keeps the times; stages of one name add up.

    ``seconds`` are what the stages took, ``cpu_seconds`` what the whole process computed meanwhile, all threads
    together: stages that run side by side share it.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or SilentProgress()
        self._start = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Time and show a stage."""
        start, busy = time.monotonic(), time.process_time()
        try:
            with self._progress.stage(name, total) as shown:
                yield shown
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - busy

    def hidden(self) -> StageClock:
        """Return a clock that records into this one but shows nothing: for work beside a stage that is shown."""
        beside = StageClock()
        beside.seconds, beside.cpu_seconds = self.seconds, self.cpu_seconds
        return beside

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._start


def hidden(progress: Progress) -> Progress:
    """Return what records the times of stages as ``progress`` does, if it does, but shows nothing."""
    return progress.hidden() if isinstance(progress, StageClock) else SilentProgress()
