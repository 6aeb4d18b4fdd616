"""What has happened in a batch's folder: ``batch.jsonl``, one line per event, never changed, only added to.

Several batches may add lines at the same time, and any of them may be killed in the middle of one: lines are
written under a lock, each in one piece, and a line that is no JSON is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.errors import HsfuseError, OutputError
from hsfuse.lock_file import locked
from hsfuse.workflows.batch.jobs import SceneJob
from hsfuse.writers.provenance import input_identity

STATE_NAME = "batch.jsonl"
PERMANENT = frozenset({2, 3, 4, 5, 8})
"""Exit codes of failures that come again with the same inputs and settings."""


@dataclass
class SceneState:
    """What is known about one scene.

    Attributes
    ----------
    status
        ``started``, ``finished``, ``failed``, ``unpaired`` or ``unreadable``.
    event
        The last event, as written.
    attempts
        How often it was started since it was last finished.
    """

    status: str
    event: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0


class BatchState:
    """The events of a folder; reads what others add, adds its own.

    Parameters
    ----------
    folder
        The batch's folder; need not exist for reading.

    Raises
    ------
    OutputError
        The file is there but cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / STATE_NAME
        self.scenes: dict[str, SceneState] = {}
        self.batches: list[dict[str, Any]] = []
        self._offset = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what was added since the last time."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                content = stream.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"The state {self.path} cannot be read: {error.strerror}.") from error
        complete, newline, _ = content.rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        for event in _events(complete):
            self._apply(event)

    def add(self, event: str, **facts: Any) -> None:
        """Append one event.

        Raises
        ------
        OSError
            The disk refuses it.
        """
        entry = {"time": now(), "event": event, **facts}
        line = json.dumps(entry, default=str, allow_nan=False).encode() + b"\n"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with locked(handle):
                size = os.fstat(handle).st_size
                # A batch that was killed, or whose disk was full, may have left half a line.
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                written = os.write(handle, (b"\n" if torn else b"") + line)
                if written < len(line):
                    raise OSError(28, "No space left on device", str(self.path))
                os.fsync(handle)
        finally:
            os.close(handle)
        self.refresh()

    def _apply(self, entry: dict[str, Any]) -> None:
        kind, name = entry.get("event"), entry.get("scene")
        if kind in ("batch-started", "batch-finished"):
            self.batches.append(entry)
        elif isinstance(name, str) and isinstance(kind, str) and kind.startswith("scene-"):
            status = kind.removeprefix("scene-")
            known = self.scenes.get(name)
            attempts = known.attempts if known is not None and known.status != "finished" else 0
            self.scenes[name] = SceneState(status, entry, attempts + (status == "started"))


def now() -> str:
    """Time of an event, as the state holds it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _events(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


class Fingerprints:
    """Decides whether inputs are what they were, reading as little as possible of each, and that once."""

    def __init__(self) -> None:
        self._stats: dict[Path, list[int]] = {}
        self._identities: dict[Path, str] = {}

    def of(self, job: SceneJob) -> dict[str, Any]:
        """Return what names a scene's inputs, settings and version, for the state.

        Raises
        ------
        InputError
            An input cannot be read.
        """
        return {
            "settings_id": settings_id(job),
            "inputs": [
                {"name": p.name, "stat": self._stat(p), "fingerprint": self._identity(p)} for p in _all_inputs(job)
            ],
        }

    def same(self, job: SceneJob, recorded: Mapping[str, Any]) -> str:
        """Return what differs from a record of :meth:`of`; empty when nothing does."""
        if recorded.get("version") != __version__:
            return f"hsfuse was {recorded.get('version')}, is {__version__}"
        if recorded.get("settings_id") != settings_id(job):
            return "other settings"
        inputs, known = _all_inputs(job), recorded.get("inputs", [])
        if [p.name for p in inputs] != [item["name"] for item in known]:
            return "other inputs"
        try:
            for path, item in zip(inputs, known, strict=True):
                if self._stat(path) != item["stat"] and self._identity(path) != item["fingerprint"]:
                    return f"{path.name} has changed"
        except (HsfuseError, OSError) as error:
            return f"{error}"
        return ""

    def _stat(self, path: Path) -> list[int]:
        """Total size and latest change of a file or folder."""
        if path not in self._stats:
            files = [path, *path.rglob("*")] if path.is_dir() else [path]
            stats = [item.stat() for item in files]
            sizes = [s.st_size for s, item in zip(stats, files, strict=True) if not item.is_dir()]
            self._stats[path] = [sum(sizes), max(s.st_mtime_ns for s in stats)]
        return self._stats[path]

    def _identity(self, path: Path) -> str:
        if path not in self._identities:
            self._identities[path] = input_identity(path).fingerprint
        return self._identities[path]


def finished_by_others(state: BatchState, job: SceneJob, batch: str, planned: str, fingerprints: Fingerprints) -> bool:
    """Whether another batch has made a scene's cube, from the same inputs and settings, since one was planned."""
    known = state.scenes.get(job.name)
    if known is None or known.status != "finished" or known.event.get("batch") == batch:
        return False
    return known.event["time"] >= planned and not fingerprints.same(job, known.event.get("identity", {}))


def note_finished(state: BatchState, job: SceneJob, batch: str, event: Mapping[str, Any]) -> None:
    """Write down that a scene is finished, unless that has been done.

    Raises
    ------
    OSError
        The disk refuses it.
    """
    state.refresh()
    known = state.scenes.get(job.name)
    if known is None or known.status != "finished" or known.event.get("batch") != batch:
        facts = {"record": event["record"], "identity": event["identity"]}
        state.add("scene-finished", scene=job.name, batch=batch, **facts)


def settings_id(job: SceneJob) -> str:
    """Hash of all settings that decide the cube's content."""
    return job.config.identity()


def _all_inputs(job: SceneJob) -> list[Path]:
    """Products, and files that settings name: weights, band lists, areas."""
    named = [job.settings.get(name) for name in ("model", "bands", "aoi")]
    return [*job.inputs, *(Path(str(name)) for name in named if name is not None and Path(str(name)).is_file())]
