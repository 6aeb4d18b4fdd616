"""One scene of a batch, run in a process of its own: lock, log, run, record."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.config import RunConfig
from hsfuse.errors import DiskFullError, HsfuseError, InputError, MemoryBudgetError
from hsfuse.log import configure, get_logger
from hsfuse.progress import Stage
from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share, check_inputs_exist
from hsfuse.workflows.batch.lock import HIDDEN, SceneLock
from hsfuse.workflows.batch.state import BatchState, Fingerprints, finished_by_others, note_finished
from hsfuse.writers.base import journal_folder
from hsfuse.writers.format import resolve_format

_log = get_logger(__name__)

Emit = Callable[[dict[str, Any]], None]
_EVENT_S = 0.5
_TRANSIENT = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EAGAIN, errno.EINTR,
     errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EREMOTEIO, errno.EBUSY}
)  # fmt: skip
"""Failures of networks and network disks that may not come again."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def log_path(folder: Path, scene: str) -> Path:
    """Log file of a scene."""
    return folder / "logs" / (scene.strip("/").replace("/", "__") + ".log")


def thumbnail_path(folder: Path, scene: str) -> Path:
    """Small picture of a scene's cube, for the summary."""
    return folder / HIDDEN / "thumbnails" / (scene.strip("/").replace("/", "__") + ".png")


def run_scene_job(job: SceneJob, attempt: Attempt, share: Share, folder: Path, emit: Emit, version: str) -> None:
    """Run one scene and tell how it went through ``emit``; standard output and error go to the scene's log.

    The last event is ``finished`` (with a record), ``failed``, ``busy`` (another process has the scene) or
    ``elsewhere`` (another batch has finished it since this one was planned). Nothing is raised: whatever goes wrong
    is an event.
    """
    try:
        with SceneLock(folder, job.name) as lock:
            # Under the lock, where nobody else can finish it: between a look from outside and the lock somebody may.
            if finished_by_others(BatchState(folder), job, attempt.batch, attempt.planned, Fingerprints()):
                emit({"kind": "elsewhere"})
                return
            _redirect(log_path(folder, job.name), attempt.number)
            emit({"kind": "started", "pid": os.getpid()})
            done = _run(job, attempt, share, folder, _SceneProgress(emit, lock), version)
            # Written down before the lock goes, for the next who gets it. Where it fails, the batch tries, and stops.
            with contextlib.suppress(OSError):
                note_finished(BatchState(folder), job, attempt.batch, done)
            emit(done)
    except BlockingIOError:
        emit({"kind": "busy"})
    except BaseException as error:
        _log.error("%s", "".join(traceback.format_exception(error)))
        emit(failure(error))


def failure(error: BaseException) -> dict[str, Any]:
    """Describe a failure: what the user is told, and what the batch has to know to go on."""
    causes = _causes(error)
    numbers = {getattr(cause, "errno", None) for cause in causes}
    memory = any(isinstance(cause, MemoryError | MemoryBudgetError) for cause in causes)
    full = any(isinstance(cause, DiskFullError) for cause in causes) or bool(numbers & _FULL)
    event: dict[str, Any] = {
        "kind": "failed", "disk_full": full, "out_of_memory": memory,
        "transient": bool(numbers & _TRANSIENT) and not full and not memory,
    }  # fmt: skip
    if isinstance(error, HsfuseError):
        return event | {"exit_code": error.exit_code, "message": error.message, "hint": error.hint}
    if memory:
        return event | {"exit_code": 6, "message": "The computer ran out of memory.", "hint": "Use fewer --workers."}
    if isinstance(error, KeyboardInterrupt):
        return event | {"exit_code": 130, "message": "Interrupted.", "hint": ""}
    text = f"{error}" if isinstance(error, OSError) else f"Unexpected error: {type(error).__name__}: {error}"
    return event | {"exit_code": 7 if full else 1, "message": text, "hint": "The scene's log has the traceback."}


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _redirect(path: Path, number: int) -> None:
    """Send everything that this process says to the scene's log; a further attempt adds to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if number == 1 else 0), 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    configure(verbosity=1)


def _run(
    job: SceneJob, attempt: Attempt, share: Share, folder: Path, progress: _SceneProgress, version: str
) -> dict[str, Any]:
    from hsfuse.workflows.run import run_scene

    if version != __version__:
        raise InputError(
            f"This worker has hsfuse {__version__}, the batch was started with {version}.",
            hint="Install the same version everywhere.",
        )
    check_inputs_exist(job)
    config = job.config
    changes: dict[str, Any] = {"overwrite": attempt.replace, "resume": not attempt.replace, "threads": share.threads}
    if share.memory is not None:
        changes["max_memory"] = f"{share.memory}B"
    if attempt.tile is not None:
        changes["tile"] = attempt.tile
    config = type(config).resolve(None, **(config.model_dump(exclude_unset=True) | changes))
    _log.info("%s: attempt %d, %s", job.name, attempt.number, share)
    output = Path(job.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    result = run_scene(Path(job.hsi), [Path(p) for p in job.msi], output, config, progress=progress)
    record = scene_record(result.summary, job) | {"seconds": round(time.monotonic() - begun, 2)}
    record |= {"thumbnail": _thumbnail(output, config, result.summary, thumbnail_path(folder, job.name))}
    if attempt.tile is not None:
        record["tile"] = attempt.tile
    return {"kind": "finished", "record": record, "identity": Fingerprints().of(job) | {"version": __version__}}


def scene_record(summary: dict[str, Any], job: SceneJob) -> dict[str, Any]:
    """What the batch's summary shows of a run's."""
    scores, alignment = summary.get("scores", {}), summary["coregistration"]
    times = [summary["inputs"][side]["start"] for side in ("hsi", "msi")]
    change = summary.get("change") or {}
    return {
        "output": summary["output"], "report": summary.get("report"), "sidecars": summary["sidecars"],
        "bytes": summary["bytes"], "method": summary["method"]["name"], "bands": summary["bands"]["count"],
        "verdict": (summary.get("verdict") or {}).get("level"),
        "coregistration": alignment["verdict"], "coregistration_rmse_m": alignment.get("rmse_m"),
        "qnr": scores.get("qnr"), "days_apart": job.days_apart, "change_share": change.get("share"),
        "cloud_percent": job.cloud_percent, "hsi_start": times[0], "msi_start": times[1],
        "hsi": summary["inputs"]["hsi"]["name"], "msi": summary["inputs"]["msi"]["name"],
        "height": summary["grid"]["height"], "width": summary["grid"]["width"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }  # fmt: skip


def _thumbnail(cube: Path, config: RunConfig, summary: dict[str, Any], path: Path) -> str | None:
    """Make a small picture of the cube; what goes wrong there costs the picture, not the scene."""
    from hsfuse.qa.batch_report import thumbnail

    try:
        with resolve_format(cube, config.format).open(cube) as reader:
            png = thumbnail(reader, summary["bands"]["centre_nm"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except (HsfuseError, OSError) as error:
        _log.warning("no thumbnail: %s", error)
        return None
    return str(path)


class _SceneProgress:
    """Passes stages on: to the batch, to the lock's note, and to the log."""

    def __init__(self, emit: Emit, lock: SceneLock) -> None:
        self._emit, self._lock, self._told = emit, lock, 0.0

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        """Open a stage."""
        begun = time.monotonic()
        shown = _SceneStage(self, name, max(total, 1e-9))
        self.tell(name, 0.0, at_once=True)
        yield shown
        _log.info("%s: done in %.1f s", name, time.monotonic() - begun)

    def tell(self, stage: str, fraction: float, *, at_once: bool = False) -> None:
        """Pass on how far a stage is."""
        now = time.monotonic()
        if at_once or now - self._told >= _EVENT_S:
            self._told = now
            self._emit({"kind": "progress", "stage": stage, "fraction": round(min(fraction, 1.0), 3)})
            self._lock.note(stage=stage, fraction=fraction)


class _SceneStage:
    def __init__(self, progress: _SceneProgress, name: str, total: float) -> None:
        self._progress, self._name, self._total, self._done = progress, name, total, 0.0

    def advance(self, amount: float = 1.0) -> None:
        """Say that ``amount`` of the stage is done."""
        self._done += amount
        self._progress.tell(self._name, self._done / self._total)


def smaller_tile(job: SceneJob, attempt: Attempt) -> Attempt:
    """How to try again after the memory ran out: alone, and with half the tile where it is known."""
    tile = attempt.tile or job.config.tile
    if tile is None:
        try:
            manifest = json.loads((journal_folder(Path(job.output)) / "manifest.json").read_text(encoding="utf-8"))
            tile = int(manifest["plan"]["tile"]) * (job.config.ratio or (3 if job.config.guide == "s2" else 6))
        except (OSError, ValueError, KeyError, TypeError):
            return replace(attempt, number=attempt.number + 1, alone=True)
    half = max(8, tile // 2)
    return replace(attempt, number=attempt.number + 1, alone=True, tile=half, replace=True)
