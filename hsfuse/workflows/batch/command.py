"""``hsfuse batch``: find, pair, plan, run, sum up."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.errors import BatchError, OutputError
from hsfuse.log import get_logger
from hsfuse.workflows.batch.dispatch import Dispatcher, Outcome
from hsfuse.workflows.batch.display import SilentDisplay, make_display
from hsfuse.workflows.batch.executors import Executor, LocalExecutor, find_gpus, share_machine
from hsfuse.workflows.batch.jobs import PlanEntry
from hsfuse.workflows.batch.plan import make_plan, plan_text, seconds_per_pixel
from hsfuse.workflows.batch.settings import BatchConfig
from hsfuse.workflows.batch.state import BatchState, now
from hsfuse.workflows.batch.summary import PAGE_NAME, write_summary

_log = get_logger(__name__)


@dataclass(frozen=True)
class BatchResult:
    """How a batch ended.

    Attributes
    ----------
    folder
        Where the cubes and the summary lie.
    entries
        The plan.
    shares
        How the machine was divided, in words; empty where nothing ran.
    outcome
        How the scenes ended that were run.
    files
        Summary: ``html``, ``csv``, ``stac``; empty after a dry run.
    seconds
        Estimated time of a dry run; None when nothing is known.
    dry_run
        Whether this is a plan only.
    """

    folder: Path
    entries: tuple[PlanEntry, ...]
    shares: str = ""
    outcome: Outcome = field(default_factory=Outcome)
    files: dict[str, Path] = field(default_factory=dict)
    seconds: float | None = None
    dry_run: bool = False

    def not_done(self) -> dict[str, dict[str, Any]]:
        """Scenes without a finished cube of these settings: name -> status, exit code, reason."""
        missing: dict[str, dict[str, Any]] = {}
        for entry in self.entries:
            if entry.action not in ("run", "done"):
                missing[entry.name] = {"status": entry.action, "exit_code": entry.exit_code, "reason": entry.reason}
        for name, event in self.outcome.failed.items():
            missing[name] = {"status": "failed", "exit_code": event["exit_code"], "reason": event["message"]}
        for name in self.outcome.not_started:
            missing[name] = {"status": "not started", "exit_code": 0, "reason": self.outcome.stopped}
        return missing

    @property
    def exit_code(self) -> int:
        """0 when every scene has its cube, else that of :class:`~hsfuse.errors.BatchError`; 0 after a dry run."""
        return BatchError.exit_code if self.not_done() and not self.dry_run else 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        missing = self.not_done()
        counts = {
            "scenes": len(self.entries),
            "finished": len(self.outcome.finished) + len(self.outcome.by_others),
            "done_before": sum(entry.action == "done" for entry in self.entries),
            "not_done": len(missing),
        }
        scenes = [
            {
                "scene": entry.name, "hsi": entry.hsi, "action": entry.action, "reason": entry.reason,
                **({"msi": list(entry.job.msi), "output": entry.job.output, "days_apart": entry.job.days_apart,
                    "cloud_percent": entry.job.cloud_percent, "coverage": entry.job.coverage} if entry.job else {}),
                **({"record": self.outcome.finished[entry.name]} if entry.name in self.outcome.finished else {}),
            }
            for entry in self.entries
        ]  # fmt: skip
        return {
            "hsfuse": __version__, "folder": str(self.folder), "dry_run": self.dry_run, "exit_code": self.exit_code,
            "counts": counts, "not_done": missing, "stopped": self.outcome.stopped, "shares": self.shares,
            "estimated_seconds": self.seconds, "files": {k: str(v) for k, v in self.files.items()}, "scenes": scenes,
        }  # fmt: skip


def run_batch(
    sources: Sequence[str | Path],
    archive: Sequence[str | Path],
    folder: str | Path,
    config: BatchConfig,
    *,
    dry_run: bool = False,
    quiet: bool = True,
    show_progress: bool = False,
) -> BatchResult:
    """Fuse many scenes: the Python face of ``hsfuse batch``.

    Parameters
    ----------
    sources
        Hyperspectral products: files, folders, globs; or manifests (CSV, JSON lines).
    archive
        Sentinel-2 products, folders of them, globs; may be empty when manifests name all products.
    folder
        Where cubes, logs, state and summary go; made when missing.
    config
        Settings of the batch and of every scene.
    dry_run
        Stop after planning; nothing is written.
    quiet, show_progress
        What is shown on standard error.

    Raises
    ------
    HsfuseError
        Nothing could be started. Failures of scenes are no exceptions: see :meth:`BatchResult.not_done`.
    """
    target = Path(folder).absolute()
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output folder {target} is a file.", hint="Name a folder with -o.")
    planned = now()
    state = BatchState(target)
    entries = make_plan(sources, archive, target, config, state)
    todo = [entry for entry in entries if entry.action == "run"]
    if dry_run:
        shares = _shares(todo, config)
        return BatchResult(target, tuple(entries), shares, seconds=_estimate(todo, state, shares), dry_run=True)
    _make_folder(target)
    batch = uuid.uuid4().hex[:12]
    outcome, shares = Outcome(), ""
    noted = _note_unrunnable(entries, state, batch)
    if todo:
        outcome, shares = _run(
            todo, target, config, state, batch=batch, planned=planned, quiet=quiet, show_progress=show_progress
        )
    if todo or noted or not (target / PAGE_NAME).exists():
        files = write_summary(entries, state, target)
    else:
        files = {"html": target / PAGE_NAME}
    return BatchResult(target, tuple(entries), shares, outcome, files)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def _run(
    todo: Sequence[PlanEntry],
    folder: Path,
    config: BatchConfig,
    state: BatchState,
    *,
    batch: str,
    planned: str,
    quiet: bool,
    show_progress: bool,
) -> tuple[Outcome, str]:
    jobs = [entry.job for entry in todo if entry.job is not None]
    executor, shares = _executor(todo, folder, config)
    display: SilentDisplay = make_display(jobs, quiet=quiet, enabled=show_progress)
    try:
        _log.info("%d scenes to run: %s", len(jobs), shares)
        state.add("batch-started", batch=batch, version=__version__, scenes=[job.name for job in jobs], shares=shares)
        dispatcher = Dispatcher(
            todo, executor, state, display, batch=batch, planned=planned, max_failures=config.max_failures
        )
        outcome = dispatcher.run()
        state.add(
            "batch-finished", batch=batch, finished=len(outcome.finished), failed=list(outcome.failed),
            not_started=len(outcome.not_started), stopped=outcome.stopped,
        )  # fmt: skip
    finally:
        display.close()
        executor.close()
    return outcome, shares


def _executor(todo: Sequence[PlanEntry], folder: Path, config: BatchConfig) -> tuple[Executor, str]:
    jobs = [entry.job for entry in todo if entry.job is not None]
    if config.scheduler is not None:
        from hsfuse.workflows.batch.dask_executor import DaskExecutor

        cluster = DaskExecutor(folder, config.scheduler, jobs, threads=config.threads, device=config.device)
        return cluster, cluster.text()
    shares = share_machine(
        jobs, max_memory=config.max_memory, workers=config.workers, threads=config.threads,
        gpus=find_gpus(config.device),
    )  # fmt: skip
    return LocalExecutor(folder, shares), shares.text()


def _shares(todo: Sequence[PlanEntry], config: BatchConfig) -> str:
    if config.scheduler is not None:
        return f"scenes run on the cluster at {config.scheduler}"
    jobs = [entry.job for entry in todo if entry.job is not None]
    return share_machine(
        jobs, max_memory=config.max_memory, workers=config.workers, threads=config.threads,
        gpus=find_gpus(config.device),
    ).text()  # fmt: skip


def _estimate(todo: Sequence[PlanEntry], state: BatchState, shares: str) -> float | None:
    """Seconds for all scenes, by what earlier ones of this folder took."""
    each = seconds_per_pixel(state)
    if each is None or not shares[:1].isdigit():
        return None
    pixels = sum(entry.job.pixels for entry in todo if entry.job is not None)
    return each * pixels / int(shares.split()[0])


def _note_unrunnable(entries: Sequence[PlanEntry], state: BatchState, batch: str) -> bool:
    """Write down what cannot run, once; True when something was new."""
    new = False
    for entry in entries:
        if entry.action not in ("unpaired", "unreadable"):
            continue
        known = state.scenes.get(entry.name)
        if known is not None and known.status == entry.action and known.event.get("message") == entry.reason:
            continue
        if known is not None and known.status == "finished":
            continue  # Its cube is there; that its input is not any more changes nothing about it.
        state.add(
            f"scene-{entry.action}", scene=entry.name, batch=batch, hsi=entry.hsi, message=entry.reason,
            exit_code=entry.exit_code,
        )  # fmt: skip
        new = True
    return new


def result_text(result: BatchResult) -> str:
    """Describe how a batch ended in a few lines."""
    if result.dry_run:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        return plan_text(result.entries, result.shares, result.seconds, width=width)
    counts = result.to_json()["counts"]
    before = f", {counts['done_before']} done before" if counts["done_before"] else ""
    lines = [f"{counts['scenes']} scenes: {counts['finished']} finished{before}, {counts['not_done']} not done"]
    lines += [f"  {facts['status']:<13} {name}: {facts['reason']}" for name, facts in sorted(result.not_done().items())]
    if result.outcome.stopped:
        lines.append(result.outcome.stopped)
    return "\n".join([*lines, f"summary: {result.files['html']}"])
