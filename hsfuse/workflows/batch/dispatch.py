"""The loop of a batch: start scenes, hear how they fare, try again what deserves it, write everything down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hsfuse._version import __version__
from hsfuse.errors import HsfuseError
from hsfuse.log import get_logger
from hsfuse.workflows.batch.executors import Executor
from hsfuse.workflows.batch.jobs import Attempt, PlanEntry, SceneJob
from hsfuse.workflows.batch.scene import smaller_tile
from hsfuse.workflows.batch.state import BatchState, Fingerprints, finished_by_others, note_finished, settings_id

_log = get_logger(__name__)

_NEWS_S = 0.5
_BUSY_S = 2.0
_ATTEMPTS = 2


class Display(Protocol):
    """Shows a batch while it runs."""

    def started(self, job: SceneJob, attempt: Attempt, where: str) -> None:
        """A scene has started."""
        ...

    def progress(self, scene: str, stage: str, fraction: float) -> None:
        """A scene is so far in one of its stages."""
        ...

    def ended(self, job: SceneJob, text: str, *, good: bool, final: bool = True) -> None:
        """A scene has ended; not ``final`` when it is tried again."""
        ...

    def refresh(self) -> None:
        """Time has passed."""
        ...


@dataclass
class Outcome:
    """How the scenes of a batch ended.

    Attributes
    ----------
    finished
        Scenes that were finished now, with their records.
    failed
        Scenes that failed now, with the failure.
    not_started
        Scenes that were not tried any more.
    stopped
        Why no more scenes were started; empty when all were.
    by_others
        Scenes that another batch finished meanwhile.
    """

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_started: list[str] = field(default_factory=list)
    stopped: str = ""
    by_others: list[str] = field(default_factory=list)


class Dispatcher:
    """Runs the scenes of a plan.

    Parameters
    ----------
    entries
        What is to be run.
    executor, state, display
        Where scenes run, what is written down, what is shown.
    batch
        Name of this batch in the state.
    planned
        When the entries were planned, as :func:`~hsfuse.workflows.batch.state.now` says it: scenes that others have
        finished since are taken over.
    max_failures
        Start no more scenes after so many failures; None: no limit.
    """

    def __init__(
        self,
        entries: Sequence[PlanEntry],
        executor: Executor,
        state: BatchState,
        display: Display,
        *,
        batch: str,
        planned: str,
        max_failures: int | None = None,
    ) -> None:
        self._executor, self._state, self._display = executor, state, display
        self._batch, self._planned, self._max_failures = batch, planned, max_failures
        jobs = [
            (entry.job, replace(first_attempt(entry, state), batch=batch, planned=planned))
            for entry in entries
            if entry.job is not None
        ]
        # Longest first: what is begun last decides when everything is done.
        self._waiting = sorted(jobs, key=lambda item: -item[0].pixels)
        self._running: dict[str, tuple[SceneJob, Attempt]] = {}
        self._busy: list[tuple[float, SceneJob, Attempt]] = []
        self._fingerprints = Fingerprints()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run until every scene has ended."""
        while self._waiting or self._running or self._busy:
            self._fill()
            for name, event in self._executor.wait(_NEWS_S):
                if name in self._running:
                    self._hear(name, event)
            self._display.refresh()
        return self.outcome

    def _fill(self) -> None:
        """Start as many scenes as can run."""
        if self.outcome.stopped:
            names = [*self._executor.withdraw(), *(job.name for job, _ in self._waiting)]
            names += [job.name for _, job, _ in self._busy]
            for name in names:
                self._running.pop(name, None)
            self.outcome.not_started += names
            self._waiting, self._busy = [], []
            return
        now = time.monotonic()
        again = [(job, attempt) for due, job, attempt in self._busy if due <= now]
        self._busy = [item for item in self._busy if item[0] > now]
        for job, attempt in again:
            self._state.refresh()
            if not self._finished_by_others(job):
                self._waiting.append((job, attempt))
        while self._waiting and self._executor.ready(self._waiting[0][1]):
            job, attempt = self._waiting.pop(0)
            self._state.refresh()
            if not self._finished_by_others(job):
                self._running[job.name] = (job, attempt)
                self._executor.start(job, attempt)

    def _finished_by_others(self, job: SceneJob) -> bool:
        """Whether another batch has finished the scene since this one was planned."""
        if not finished_by_others(self._state, job, self._batch, self._planned, self._fingerprints):
            return False
        self._take_over(job)
        return True

    def _take_over(self, job: SceneJob) -> None:
        self.outcome.by_others.append(job.name)
        self._display.ended(job, "finished by another batch", good=True)

    def _hear(self, name: str, event: dict[str, Any]) -> None:
        job, attempt = self._running[name]
        kind = event["kind"]
        if kind == "started":
            where = str(event.get("where", ""))
            self._note(
                "started", job, attempt=attempt.number, tile=attempt.tile, replace=attempt.replace,
                settings_id=settings_id(job), version=__version__, pid=event.get("pid"), where=where, hsi=job.hsi,
                msi=list(job.msi), output=job.output,
            )  # fmt: skip
            self._display.started(job, attempt, where)
        elif kind == "progress":
            self._display.progress(name, event["stage"], event["fraction"])
        else:
            del self._running[name]
            if kind == "finished":
                self._finished(job, event)
            elif kind == "busy":
                self._busy.append((time.monotonic() + _BUSY_S, job, attempt))
            elif kind == "elsewhere":
                self._take_over(job)
            else:
                self._failed(job, attempt, event)

    def _finished(self, job: SceneJob, event: dict[str, Any]) -> None:
        record = event["record"]
        self.outcome.finished[job.name] = record
        self._write(lambda: note_finished(self._state, job, self._batch, event))
        verdict = f", {record['verdict']}" if record.get("verdict") else ""
        self._display.ended(job, f"done in {record['seconds']:.0f} s{verdict}", good=True)

    def _failed(self, job: SceneJob, attempt: Attempt, event: dict[str, Any]) -> None:
        again = self._next_attempt(job, attempt, event)
        if again is not None:
            tile = f", tiles of {again.tile}" if again.tile and again.tile != attempt.tile else ""
            self._note("retried", job, message=event["message"], attempt=attempt.number, tile=again.tile)
            self._display.ended(job, f"{event['message']} Trying again{tile}.", good=False, final=False)
            self._waiting.insert(len(self._waiting) if again.alone else 0, (job, again))
            return
        self.outcome.failed[job.name] = event
        try:
            identity = self._fingerprints.of(job) | {"version": __version__}
        except (HsfuseError, OSError):
            identity = {}
        self._note(
            "failed", job, exit_code=event["exit_code"], message=event["message"], hint=event["hint"],
            attempt=attempt.number, identity=identity,
        )  # fmt: skip
        self._display.ended(job, f"failed ({event['exit_code']}): {event['message']}", good=False)
        if event.get("disk_full"):
            self._stop(f"The disk is full ({job.name}); no more scenes were started.")
        elif self._max_failures is not None and len(self.outcome.failed) >= self._max_failures:
            self._stop(f"{len(self.outcome.failed)} scenes failed (--max-failures); no more were started.")

    @staticmethod
    def _next_attempt(job: SceneJob, attempt: Attempt, event: dict[str, Any]) -> Attempt | None:
        if attempt.number >= _ATTEMPTS or event.get("disk_full"):
            return None
        if event.get("out_of_memory"):
            return smaller_tile(job, attempt)
        return replace(attempt, number=attempt.number + 1) if event.get("transient") else None

    def _stop(self, reason: str) -> None:
        if not self.outcome.stopped:
            self.outcome.stopped = reason
            _log.warning("%s", reason)

    def _note(self, event: str, job: SceneJob, **facts: Any) -> None:
        """Write an event down."""
        self._write(lambda: self._state.add(f"scene-{event}", scene=job.name, batch=self._batch, **facts))

    def _write(self, add: Callable[[], None]) -> None:
        """Write to the state; one that cannot be written stops the batch, not the scenes that run."""
        try:
            add()
        except OSError as error:
            self._stop(f"{self._state.path} cannot be written ({error.strerror}); no more scenes were started.")


def first_attempt(entry: PlanEntry, state: BatchState) -> Attempt:
    """How a scene is tried first: an interrupted attempt is gone on with as it was begun."""
    known = state.scenes.get(entry.name)
    if entry.replace or known is None or known.status not in ("started", "retried") or entry.job is None:
        return Attempt(replace=entry.replace)
    begun = known.event
    same = begun.get("settings_id") in (None, settings_id(entry.job)) and begun.get("version") in (None, __version__)
    tile = begun.get("tile") if same else None
    return Attempt(replace=not same or bool(begun.get("replace")), tile=tile)
