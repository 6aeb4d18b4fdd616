"""Scenes on an existing Dask cluster: one task a scene, whatever started the cluster.

Dask's scheduler repeats the scenes of a worker that is lost; a scheduler that is lost is waited for. In both cases a
scene goes on where its journal ends.
"""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.log import get_logger
from hsfuse.workflows.batch.cluster import check_workers, connect
from hsfuse.workflows.batch.executors import scene_bytes
from hsfuse.workflows.batch.jobs import Attempt, SceneJob

_log = get_logger(__name__)

_RETURN_S = 300.0
"""A scheduler that is lost is waited for so long."""
_GPU, _MEMORY = "GPU", "memory"


class DaskExecutor:
    """Runs scenes on a Dask cluster.

    Parameters
    ----------
    folder
        The batch's folder, which all workers see.
    address
        Address or scheduler file.
    jobs
        All scenes, for the checks before the start.
    threads
        CPU threads of each scene; None: the worker's share of its machine.
    device
        The run's device: scenes for a GPU go to workers with the resource ``GPU`` where there are any.

    Raises
    ------
    UsageError, InputError
        See :func:`connect` and :func:`check_workers`.
    """

    def __init__(
        self, folder: Path, address: str, jobs: Sequence[SceneJob], *, threads: int | None, device: str
    ) -> None:
        self._folder, self._address, self._threads, self._device = folder, address, threads, device
        self._topic = f"hsfuse-batch-{uuid.uuid4().hex[:12]}"
        self._events: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._tasks: dict[str, tuple[SceneJob, Attempt]] = {}
        self._futures: dict[str, Any] = {}
        self._started: set[str] = set()
        self._lost: set[str] = set()
        self._resources: dict[str, float] = {}
        self._slots: dict[str, int] = {}
        self._client = connect(address)
        try:
            paths = list(dict.fromkeys(path for job in jobs for path in job.inputs))
            check_workers(self._client, paths, folder)
            self._look_around()
        except BaseException:
            self._client.close()
            raise

    def text(self) -> str:
        """One line for people."""
        scenes = sum(self._slots.values())
        tags = f", tagged {', '.join(self._resources)}" if self._resources else ""
        return f"scenes run on the cluster at {self._address}: {scenes} at a time now{tags}"

    def ready(self, attempt: Attempt) -> bool:  # noqa: ARG002 - the scheduler decides who waits
        """Whether another scene can be taken: the cluster keeps the queue, and may grow with it."""
        return True

    def start(self, job: SceneJob, attempt: Attempt) -> None:
        """Hand a scene to the scheduler."""
        self._tasks[job.name] = (job, attempt)
        self._submit(job.name)

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Wait for events at most so long; a lost scheduler is waited for longer.

        Raises
        ------
        HsfuseError
            The scheduler did not come back.
        """
        events: list[tuple[str, dict[str, Any]]] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=seconds))
            while True:
                events.append(self._events.get_nowait())
        kept = []
        for name, event in events:
            if event["kind"] == "lost":
                if name in self._tasks:
                    self._lost.add(name)
                continue
            if event["kind"] == "started":
                self._started.add(name)
            elif event["kind"] != "progress":
                if name not in self._tasks:
                    continue
                self._forget(name)
            kept.append((name, event))
        if self._client.status in ("closed", "closing"):
            self._come_back()
        elif self._lost and self._client.status == "running":
            self._submit_lost()
        return kept

    def withdraw(self) -> list[str]:
        """Cancel the scenes that have not started."""
        names = [name for name in self._tasks if name not in self._started]
        futures = [self._futures[name] for name in names]
        for name in names:
            self._forget(name)
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)
        return names

    def close(self) -> None:
        """Leave the cluster; scenes that run are cancelled, and workers end them with the next event."""
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._futures.values()), force=True)
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def _look_around(self) -> None:
        """See what workers offer, and listen to them."""
        workers: Mapping[str, Mapping[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        self._slots = {}
        offered: dict[str, float] = {}
        for address, worker in workers.items():
            machine = address.rpartition(":")[0]
            self._slots[machine] = self._slots.get(machine, 0) + int(worker["nthreads"])
            for name, amount in worker.get("resources", {}).items():
                offered[name] = max(offered.get(name, 0.0), float(amount))
        self._resources = {name: offered[name] for name in (_GPU, _MEMORY) if name in offered}
        if self._device == "cpu":
            self._resources.pop(_GPU, None)
        self._client.subscribe_topic(self._topic, self._on_event)

    def _submit(self, name: str) -> None:
        from hsfuse.workflows.batch.dask_task import run_on_worker

        job, attempt = self._tasks[name]
        request = {
            "job": job.to_json(), "attempt": asdict(attempt), "folder": str(self._folder), "cwd": str(Path.cwd()),
            "version": __version__, "topic": self._topic, "threads": self._threads, "slots": self._slots,
        }  # fmt: skip
        future = self._client.submit(
            run_on_worker, request, key=f"hsfuse-{name}-{uuid.uuid4().hex[:8]}", pure=False,
            resources=self._needs(job), priority=job.pixels,
        )  # fmt: skip
        self._futures[name] = future
        future.add_done_callback(lambda done: self._on_done(name, done))

    def _needs(self, job: SceneJob) -> dict[str, float] | None:
        needs: dict[str, float] = {}
        if _GPU in self._resources:
            needs[_GPU] = 1
        if _MEMORY in self._resources:
            # More than any worker has would wait for ever.
            needs[_MEMORY] = min(float(scene_bytes(job)), self._resources[_MEMORY])
        return needs or None

    def _on_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        _, message = event
        name = str(message["scene"])
        self._events.put((name, dict(message)))

    def _on_done(self, name: str, future: Any) -> None:
        """Turn the end of a task into events; called in the client's thread."""
        known = self._futures.get(name)
        if known is None or known is not future:
            return
        if future.status == "finished":
            self._events.put((name, dict(future.result())))
        elif future.status == "error":
            self._events.put((name, _task_failure(future.exception())))
        else:
            self._events.put((name, {"kind": "lost"}))

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._futures.pop(name, None)
        self._started.discard(name)
        self._lost.discard(name)

    def _submit_lost(self) -> None:
        """Hand scenes over again whose tasks the scheduler has lost."""
        if self._lost:
            _log.warning("The scheduler was restarted; %d scenes are handed over again.", len(self._lost))
        names, self._lost = self._lost, set()
        for name in names:
            self._started.discard(name)
            self._submit(name)

    def _come_back(self) -> None:
        """Wait for the scheduler and hand everything over again."""
        _log.warning("The scheduler %s is lost; waiting for it up to %.0f s.", self._address, _RETURN_S)
        deadline = time.monotonic() + _RETURN_S
        self._futures.clear()
        while True:
            try:
                self._client = connect(self._address)
                break
            except UsageError as error:
                if time.monotonic() > deadline:
                    raise HsfuseError(
                        f"The scheduler {self._address} was lost and did not come back.",
                        hint="Start it again and repeat the command: finished scenes are skipped.",
                    ) from error
        self._look_around()
        self._lost = set(self._tasks)
        self._submit_lost()


def _task_failure(error: BaseException) -> dict[str, Any]:
    """Describe the failure of a task: not of the scene, which would have told it."""
    from distributed import KilledWorker

    lost = isinstance(error, KilledWorker)
    text = "Its workers were lost again and again, probably because their memory ran out." if lost else f"{error}"
    return {
        "kind": "failed", "exit_code": 6 if lost else 1, "message": text, "hint": "See the workers' logs.",
        "transient": False, "out_of_memory": False, "disk_full": False,
    }  # fmt: skip
