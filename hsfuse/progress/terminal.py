"""Progress on a terminal: the step that is being done, a bar for the whole run, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hsfuse.progress.protocol import Stage, Step, format_seconds
from hsfuse.progress.tracker import TOLD_S, ProgressTracker, SmoothedEstimate, State, TrackedStage

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.progress_bar import ProgressBar

_PER_SECOND = 4
_INDENT = 4
_NARROWEST_BAR = 8
_STARTING = Step("start", "load libraries and look at the inputs")
_ENDING = Step("end", "put the files in their places and tidy up")


class RichProgress:
    """A live display of two lines that never stands still, and a line for every step that is done.

    Parameters
    ----------
    console
        Where it is drawn; None: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True, highlight=False)
        self._tracker = ProgressTracker()
        self._live: Live | None = None

    def open(self) -> None:
        """Begin to draw, before anything is known of the run."""
        from rich.live import Live

        if self._live is None:
            view = _View(self._tracker)
            self._live = Live(view, console=self._console, refresh_per_second=_PER_SECOND, transient=True)
            self._live.start()
            # A process that is killed could not show it again.
            self._console.show_cursor(True)

    def expect(self, steps: Sequence[Step]) -> None:
        """Say which stages are to come."""
        self._tracker.expect(steps)
        self.open()

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage."""
        self.open()
        start, tracker = time.monotonic(), self._tracker
        tracker.begin(name, total)
        yield TrackedStage(tracker, name)
        took = tracker.end(name)
        spent = time.monotonic() - start if took is None else took
        if tracker.label(name) != name or tracker.state().left is None or spent >= TOLD_S:
            self._console.print(f"{tracker.label(name)}: {format_seconds(spent)}", style="dim", markup=False)

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Take the display away; finished steps stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class _View:
    """What is drawn: always of this moment."""

    def __init__(self, tracker: ProgressTracker) -> None:
        self._tracker, self._smoothed = tracker, SmoothedEstimate()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        state = self._smoothed(self._tracker.state())
        yield Text(headline(state), style="bold", overflow="fold")
        times = Text(figures(state), no_wrap=True)
        room = options.max_width - _INDENT - times.cell_len - 2
        bar = _bar(state)
        if bar is None or room < _NARROWEST_BAR:
            yield Padding(times, (0, 0, 0, _INDENT))
            return
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=room)
        row.add_column(no_wrap=True)
        row.add_row(bar, times)
        yield Padding(Group(row), (0, 0, 0, _INDENT))


def _bar(state: State) -> ProgressBar | None:
    from rich.progress_bar import ProgressBar

    if state.fraction is None:
        return ProgressBar(total=None, pulse=True)
    return ProgressBar(total=1.0, completed=min(state.fraction, 0.999))


def headline(state: State) -> str:
    """``3/9 co-register: find the displacement of PRISMA against Sentinel-2 (windows)``."""
    at_end = bool(state.count) and not state.name
    between = _ENDING if at_end else _STARTING
    name = state.name or between.name
    text = state.text or (between.text if not state.name else "")
    number = f"{state.number}/{state.count} " if state.count and state.name else ""
    return f"{number}{name}" + (f": {text}" if text else "") + (f" ({state.note})" if state.note else "")


def figures(state: State) -> str:
    """``41 %  12 s gone, about 18 s left``, with the share of the step where it is known."""
    step = f"step {100 * state.share:.0f} %, " if state.share is not None else ""
    gone = f"{format_seconds(state.elapsed)} gone"
    if state.fraction is None or state.left is None:
        return f"{step}{gone}"
    return f"{100 * min(state.fraction, 0.99):2.0f} %  {step}{gone}, about {format_seconds(max(state.left, 1.0))} left"
