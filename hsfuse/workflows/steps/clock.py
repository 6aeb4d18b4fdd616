"""Seconds of each stage and the peak memory of the whole, recorded on the way to the progress display."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress, Stage, Step, expect
from hsfuse.workflows.steps.memory import PeakMemory

_log = get_logger(__name__)


class StageClock:
    """A :class:`~hsfuse.progress.Progress` that also keeps the times; stages of one name add up.

    ``seconds`` are what the stages took, ``cpu_seconds`` what the whole process computed meanwhile, all threads
    together: stages that run side by side share it. ``memory`` is what the process held at most since the clock was
    entered.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or SilentProgress()
        self._start = time.monotonic()
        self.memory = PeakMemory()
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    def __enter__(self) -> StageClock:
        self.memory.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.memory.__exit__(kind, error, trace)

    def expect(self, steps: Sequence[Step]) -> None:
        """Pass on which stages are to come."""
        expect(self._progress, steps)

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Time and show a stage."""
        start, busy = time.monotonic(), time.process_time()
        _log.debug("%s: begins", name)
        try:
            with self._progress.stage(name, total) as shown:
                yield shown
        finally:
            took = time.monotonic() - start
            _log.debug("%s: done in %.2f s", name, took)
            self.seconds[name] = self.seconds.get(name, 0.0) + took
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


class LateStage:
    """A stage of work that begins before it is shown; what was done until then is shown at once.

    Its work runs in a thread of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = 0.0
        self._shown: Stage | None = None

    def advance(self, amount: float = 1.0) -> None:
        """Say that ``amount`` of the stage's total is done."""
        with self._lock:
            if self._shown is None:
                self._done += amount
            else:
                self._shown.advance(amount)

    def show(self, stage: Stage) -> None:
        """Show it as ``stage`` from now on."""
        with self._lock:
            stage.advance(self._done)
            self._shown = stage


def hidden(progress: Progress) -> Progress:
    """Return what records the times of stages as ``progress`` does, if it does, but shows nothing."""
    return progress.hidden() if isinstance(progress, StageClock) else SilentProgress()
