"""Progress below a notebook's cell."""

from __future__ import annotations

import html
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hsfuse.progress.protocol import Stage, Step, format_seconds
from hsfuse.progress.terminal import figures, headline
from hsfuse.progress.tracker import ProgressTracker, SmoothedEstimate, TrackedStage

_EVERY_S = 0.5


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class NotebookProgress:
    """A bar with the step that is being done, brought up to date twice a second; use :meth:`close` at the end."""

    def __init__(self) -> None:
        self._tracker, self._smoothed = ProgressTracker(), SmoothedEstimate()
        self._handle: Any = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Show the bar."""
        self._open()

    def say(self, text: str) -> None:
        """Print a line."""
        print(text)  # noqa: T201 - a notebook's cell

    def expect(self, steps: Sequence[Step]) -> None:
        """Say which stages are to come."""
        self._tracker.expect(steps)
        self._open()

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage."""
        self._open()
        self._tracker.begin(name, total)
        yield TrackedStage(self._tracker, name)
        self._tracker.end(name)

    def close(self) -> None:
        """Stop; what was reached stays to be seen."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        took = format_seconds(self._tracker.state().elapsed)
        self._show(f"<progress value='1' max='1' style='width:20em'></progress> {html.escape(took)}")

    def _open(self) -> None:
        if self._thread is not None:
            return
        from IPython.display import HTML, display

        self._handle = display(HTML(self._text()), display_id=True)
        self._ended.clear()
        self._thread = threading.Thread(target=self._tick, name="hsfuse-progress", daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._show(self._text())

    def _show(self, text: str) -> None:
        from IPython.display import HTML

        if self._handle is not None:
            self._handle.update(HTML(text))

    def _text(self) -> str:
        state = self._smoothed(self._tracker.state())
        value = "" if state.fraction is None else f" value='{state.fraction:.3f}'"
        bar = f"<progress{value} max='1' style='width:20em'></progress>"
        return f"<div>{html.escape(headline(state))}</div><div>{bar} {html.escape(figures(state))}</div>"
