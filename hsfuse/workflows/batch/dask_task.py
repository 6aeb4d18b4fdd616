"""What runs on a Dask worker: one scene, in a process of its own beside the worker's.

The worker only waits for it, so it keeps answering its scheduler, and neither the scene's memory nor its end touch
the worker. When the worker dies, the scene's process dies too, and the journal keeps what was done.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsfuse.errors import HsfuseError
from hsfuse.processor import usable_cores
from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share
from hsfuse.workflows.batch.scene import failure
from hsfuse.workflows.batch.scene_client import SceneHost

_HOST_BYTES = 300 * 2**20
"""The process that scenes are born from."""
_LIMIT_SHARE = 0.9
_SMALLEST_BYTES = 2**28

_hosts: dict[str, SceneHost] = {}
_hosts_lock = threading.Lock()


def run_on_worker(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a scene; return its last event (``finished``, ``failed``, ``busy`` or ``elsewhere``).

    Parameters
    ----------
    request
        ``job`` (JSON), ``attempt``, ``folder``, ``cwd``, ``version``, ``topic`` for events on the way, ``threads`` of
        a scene or None, and ``slots``: scenes that may run at a time on each machine, by its address.
    """
    from distributed import get_worker

    worker = get_worker()
    job = SceneJob.from_json(request["job"])
    where = f"{worker.name}" if worker.name and worker.name != worker.address else worker.address

    def tell(event: Mapping[str, Any]) -> None:
        worker.log_event(request["topic"], {**event, "scene": job.name, "where": where})

    try:
        host = _host(Path(request["folder"]), request["cwd"], request["version"])
        process = host.run(job, Attempt(**request["attempt"]), _share(worker, request))
    except HsfuseError as error:
        return failure(error) | {"where": where}
    while True:
        events, ended = process.read()
        last: dict[str, Any] = {}
        for event in events:
            if event["kind"] in ("started", "progress"):
                tell(event)
            else:
                last = json.loads(json.dumps(event))
        if last:
            return last | {"where": where}
        if ended:
            return failure(HsfuseError("The scene's process ended without a word.")) | {"where": where}


def _host(folder: Path, cwd: str, version: str) -> SceneHost:
    """Process that this worker's scenes are born from; started with its first scene."""
    with _hosts_lock:
        host = _hosts.get(str(folder))
        if host is None or not host.alive():
            host = _hosts[str(folder)] = SceneHost(folder, cwd=cwd, version=version)
        return host


def _share(worker: Any, request: Mapping[str, Any]) -> Share:
    """What a scene may use of the worker's machine: its part of the cores and of the worker's memory limit."""
    slots = max(1, int(worker.state.nthreads))
    machine = worker.address.rpartition(":")[0]
    threads = request["threads"] or max(1, usable_cores() // max(slots, int(request["slots"].get(machine, slots))))
    limit = worker.memory_manager.memory_limit
    memory = None if not limit else max(_SMALLEST_BYTES, int((_LIMIT_SHARE * limit - _HOST_BYTES) / slots))
    return Share(threads, memory)
