"""A batch on the terminal: a live table of what runs, or a line per event where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from hsfuse.progress import format_seconds
from hsfuse.workflows.batch.jobs import Attempt, SceneJob

if TYPE_CHECKING:
    from rich.table import Table

_REDRAW_S = 0.25


@dataclass
class _Running:
    job: SceneJob
    since: float
    where: str = ""
    stage: str = "start"
    fraction: float = 0.0


class BatchClock:
    """How far a batch is, by the pixels of its scenes.

    Parameters
    ----------
    jobs
        All scenes that are to run.
    """

    def __init__(self, jobs: Sequence[SceneJob]) -> None:
        self._begun = time.monotonic()
        self.total = len(jobs)
        self._pixels = sum(job.pixels for job in jobs)
        self._done_pixels = 0
        self.ended: set[str] = set()
        self.running: dict[str, _Running] = {}
        self._seconds_per_pixel: list[float] = []
        self._abreast = 0

    def start(self, job: SceneJob, where: str) -> None:
        """A scene starts."""
        self.running[job.name] = _Running(job, time.monotonic(), where)
        self._abreast = max(self._abreast, len(self.running))

    def end(self, job: SceneJob, *, good: bool) -> None:
        """A scene ends; failures say nothing about how long scenes take."""
        running = self.running.pop(job.name, None)
        if running is not None and good and job.pixels:
            self._seconds_per_pixel.append((time.monotonic() - running.since) / job.pixels)

    def settle(self, job: SceneJob) -> None:
        """A scene will not run any more."""
        if job.name not in self.ended:
            self.ended.add(job.name)
            self._done_pixels += job.pixels

    def remaining_s(self) -> float | None:
        """Seconds until everything is done; None before the first scene is."""
        if not self._seconds_per_pixel or len(self.ended) >= self.total:
            return None
        mean = sum(self._seconds_per_pixel) / len(self._seconds_per_pixel)
        now = time.monotonic()
        spent = sum(min(now - r.since, 0.95 * mean * r.job.pixels) for r in self.running.values())
        work = mean * (self._pixels - self._done_pixels) - spent
        return max(0.0, work) / max(1, min(self._abreast, self.total - len(self.ended)))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun


class SilentDisplay:
    """Shows nothing."""

    def started(self, job: SceneJob, attempt: Attempt, where: str) -> None:
        """Say nothing."""

    def progress(self, scene: str, stage: str, fraction: float) -> None:
        """Say nothing."""

    def ended(self, job: SceneJob, text: str, *, good: bool, final: bool = True) -> None:
        """Say nothing."""

    def refresh(self) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class LineDisplay(SilentDisplay):
    """A line when a scene starts and when it ends: for log files and schedulers' output."""

    def __init__(self, jobs: Sequence[SceneJob], stream: TextIO | None = None) -> None:
        self.clock = BatchClock(jobs)
        self._stream = stream or sys.stderr

    def started(self, job: SceneJob, attempt: Attempt, where: str) -> None:
        """Write that a scene starts."""
        self.clock.start(job, where)
        again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
        self._say(f"{job.name}: started{again}{f' on {where}' if where else ''}")

    def progress(self, scene: str, stage: str, fraction: float) -> None:
        """Keep it for the estimate; a line per stage and scene would drown what matters."""
        running = self.clock.running.get(scene)
        if running is not None:
            running.stage, running.fraction = stage, fraction

    def ended(self, job: SceneJob, text: str, *, good: bool, final: bool = True) -> None:
        """Write how a scene ended."""
        self.clock.end(job, good=good)
        if final:
            self.clock.settle(job)
        left = self.clock.remaining_s()
        rest = f"; about {format_seconds(left)} left" if left is not None else ""
        self._say(f"[{len(self.clock.ended)}/{self.clock.total}] {job.name}: {text}{rest}")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class TableDisplay(LineDisplay):
    """A live table on a terminal: running scenes with stage and progress, and the time left for all."""

    def __init__(self, jobs: Sequence[SceneJob]) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(jobs)
        self._console = Console(stderr=True)
        self._live = Live(self._table(), console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn = 0.0

    def refresh(self) -> None:
        """Draw anew, a few times a second."""
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        left = self.clock.remaining_s()
        rest = f", about {format_seconds(left)} left" if left is not None else ""
        title = f"{len(self.clock.ended)} of {self.clock.total} scenes, {format_seconds(self.clock.elapsed_s)}{rest}"
        table = Table(title=title, title_justify="left", expand=False)
        for column in ("scene", "stage", "", "time", "where"):
            table.add_column(column, no_wrap=True)
        now = time.monotonic()
        for name, running in self.clock.running.items():
            bar: Any = ProgressBar(total=1.0, completed=running.fraction, width=24)
            table.add_row(name, running.stage, bar, format_seconds(now - running.since), running.where)
        return table


def make_display(jobs: Sequence[SceneJob], *, quiet: bool, enabled: bool) -> SilentDisplay:
    """Pick the right kind: silent, a table on a terminal, lines elsewhere."""
    if quiet or not enabled:
        return SilentDisplay()
    return TableDisplay(jobs) if sys.stderr.isatty() else LineDisplay(jobs)
