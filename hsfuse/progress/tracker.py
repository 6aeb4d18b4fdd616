"""How far a run is, and how long it still takes: the reckoning behind every display."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hsfuse.progress.protocol import Step

TOLD_S = 2.0
"""Seconds from which the end of a stage beside the steps of a plan is told."""
_TRUST_S = 1.5
"""Expected seconds that must have passed until the machine's own pace counts as much as what was foreseen."""
_PACE = (0.2, 20.0)
"""How much faster or slower than foreseen a machine is believed to be."""


@dataclass
class _Run:
    """A step and what became of it."""

    step: Step
    began: float | None = None
    took: float | None = None
    skipped: bool = False


@dataclass(frozen=True)
class State:
    """How a run stands.

    Attributes
    ----------
    number, count
        Step that is being done, from 1, and how many there are; ``number`` 0 before the first and without a plan.
    name, text, note
        That step, what it does, what is done in it just now.
    share
        Of the step, 0 to 1; None where nothing tells.
    elapsed, left
        Seconds since the start and until the end; ``left`` None where nothing is expected.
    """

    number: int
    count: int
    name: str
    text: str
    note: str
    share: float | None
    elapsed: float
    left: float | None

    @property
    def fraction(self) -> float | None:
        """Of the whole run's time that has passed, 0 to 1; None where nothing is expected."""
        return None if self.left is None else self.elapsed / max(self.elapsed + self.left, 1e-9)


class SmoothedEstimate:
    """Lets the estimate that is shown follow the reckoning without jumps.

    A plan that is just being corrected, or a rival that computes for a second, is no news.

    Parameters
    ----------
    lag_s
        Seconds after which two thirds of a change are shown.
    """

    def __init__(self, lag_s: float = 3.0) -> None:
        self._lag, self._total, self._seen = lag_s, 0.0, 0.0

    def __call__(self, state: State) -> State:
        """Return the state with the estimate that is shown."""
        if state.left is None:
            return state
        total, passed = state.elapsed + state.left, state.elapsed - self._seen
        follow = 1.0 if not self._total else 1.0 - math.exp(-max(passed, 0.0) / self._lag)
        self._total += follow * (total - self._total)
        self._seen = state.elapsed
        return replace(state, left=max(self._total - state.elapsed, 0.0))


class ProgressTracker:
    """The steps of a run with their times; all methods may be called from any thread.

    The rest of the running step is taken from what is reported of it, the more so the more of it is done; steps to
    come from what was foreseen, corrected by the pace of those that are done.

    Parameters
    ----------
    clock
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._lock = threading.RLock()
        self._runs: list[_Run] = []
        self._done = self._total = 0.0
        self._name = self._note = ""
        self._turn = self._start
        """When the last step ended: what is prepared between two steps belongs to the next."""

    def expect(self, steps: Sequence[Step]) -> None:
        """Set or correct what is to come; what has been keeps its times."""
        with self._lock:
            if not self._runs:
                self._turn = self._clock()
            known = {run.step.name: run for run in self._runs}
            self._runs = [
                _Run(step, *(_past(known[step.name]) if step.name in known else ())) for step in steps
            ]  # fmt: skip

    def begin(self, name: str, total: float) -> None:
        """A stage begins."""
        with self._lock:
            self._name, self._note, self._done, self._total = name, "", 0.0, max(total, 1e-9)
            index = self._index(name)
            if index is None:
                return
            for run in self._runs[:index]:
                run.skipped = run.skipped or run.took is None
            self._runs[index].began, self._runs[index].skipped = self._turn, False

    def advance(self, name: str, amount: float) -> None:
        """Say that so many units of a stage are done."""
        with self._lock:
            if name == self._name:
                self._done += amount

    def note(self, name: str, text: str) -> None:
        """Say what is done in a stage."""
        with self._lock:
            if name == self._name:
                self._note = text

    def end(self, name: str) -> float | None:
        """End a stage; return the seconds that it took, None where it is no step of the plan."""
        with self._lock:
            if self._name == name:
                self._name = self._note = ""
            index = self._index(name)
            if index is None:
                return None
            run, now = self._runs[index], self._clock()
            took = now - (self._turn if run.began is None else run.began)
            # Stages of one name add up.
            run.took = (run.took or 0.0) + took
            self._turn = now
            return took

    def label(self, name: str) -> str:
        """``3/9 co-register``; the name alone where it is no step of the plan."""
        with self._lock:
            index = self._index(name)
            return name if index is None else f"{index + 1}/{len(self._runs)} {name}"

    def state(self) -> State:
        """How the run stands now."""
        with self._lock:
            now = self._clock()
            index = self._current()
            share = min(self._done / self._total, 1.0) if self._name and self._done > 0 else None
            if index is None:
                over = bool(self._runs)
                return State(
                    len(self._runs), len(self._runs), self._name, "", self._note, share, now - self._start,
                    0.0 if over else None,
                )  # fmt: skip
            run = self._runs[index]
            running = self._name == run.step.name
            pace = {measured: self._pace(measured) for measured in (False, True)}
            left = self._rest(run, now - (self._turn if run.began is None else run.began), share if running else None,
                              pace)  # fmt: skip
            left += sum(_expected(each.step, pace) for each in self._runs[index + 1 :] if not each.skipped)
            note = self._note if running or not self._name else self._name
            return State(
                index + 1, len(self._runs), run.step.name, run.step.text, note, share if running else None,
                now - self._start, left,
            )  # fmt: skip

    def _index(self, name: str) -> int | None:
        return next((i for i, run in enumerate(self._runs) if run.step.name == name), None)

    def _current(self) -> int | None:
        """The running step, else the next one."""
        running = self._index(self._name) if self._name else None
        if running is not None:
            return running
        return next((i for i, run in enumerate(self._runs) if run.took is None and not run.skipped), None)

    def _pace(self, measured: bool) -> float:
        """Times as long as foreseen that this machine takes, for steps that were measured and for others."""
        done = [run for run in self._runs if run.took is not None and run.step.measured is measured]
        done = [run for run in done if run.step.telling and not run.step.timed]
        took = sum(run.took or 0.0 for run in done) + _TRUST_S
        foreseen = sum(run.step.seconds for run in done) + _TRUST_S
        return min(max(took / foreseen, _PACE[0]), _PACE[1])

    def _rest(self, run: _Run, spent: float, share: float | None, pace: Mapping[bool, float]) -> float:
        """Seconds until the running step ends."""
        foreseen = max(_expected(run.step, pace) - spent, 0.1 * spent)
        if not share:
            return foreseen
        reported = spent * (1.0 - share) / share
        return share * reported + (1.0 - share) * foreseen


class TrackedStage:
    """A stage that is reported to a tracker, for displays that show the tracker themselves."""

    def __init__(self, tracker: ProgressTracker, name: str) -> None:
        self._tracker, self._name = tracker, name

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar."""
        self._tracker.advance(self._name, amount)

    def note(self, text: str) -> None:
        """Show what is done just now."""
        self._tracker.note(self._name, text)


def _expected(step: Step, pace: Mapping[bool, float]) -> float:
    return step.seconds if step.timed else step.seconds * pace[step.measured]


def _past(run: _Run) -> tuple[float | None, float | None, bool]:
    return run.began, run.took, run.skipped
