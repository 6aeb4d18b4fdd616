"""The process that scene processes are born from: it imports everything once, then forks one process a scene.

A scene needs libraries whose import takes seconds. A process that has imported them, and has no thread yet, can be
copied in milliseconds; the copy is as separate from other scenes as a process of its own, and what it leaves behind
in memory goes with it. Run as ``python -m hsfuse.workflows.batch.scene_host FD fork``
(or ``once``, for a single scene in the process itself); :class:`SceneHost` is the other
end. Each request carries one end of a socket pair: the scene's process writes its events there, one JSON object a
line, and ends when the other end is closed, as it is when the batch dies.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from hsfuse.process import BLAS_THREADS, OPENBLAS_THREADS, own_process

_REQUEST_BYTES = 1 << 20
_REAP_S = 0.2
_LIBRARIES = (
    "torch", "h5py", "rasterio.features", "rasterio.warp", "matplotlib.figure", "matplotlib.image",
    "matplotlib.backends.backend_agg", "jinja2", "defusedxml.ElementTree", "scipy.ndimage", "scipy.sparse",
)  # fmt: skip
_OWN = ("readers", "writers", "coregister", "band_selection", "inference", "metrics", "qa", "workflows.steps")
"""Not the methods: a scene needs one of them, and some bring libraries for GPUs."""


def can_fork() -> bool:
    """Whether a process with these libraries may be copied: elsewhere than on Linux their parts do not survive it."""
    return sys.platform == "linux"


def main() -> None:
    """Serve requests until the other end is closed."""
    control, copies = socket.socket(fileno=int(sys.argv[1])), sys.argv[2] == "fork"
    # Ctrl-C is for the batch, which closes this end's partner; and nobody waits for scenes that have ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_all()
    control.sendall(b"ready\n")
    children: dict[int, None] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            readable = selector.select(_REAP_S if children else None)
            _reap(children, control)
            if not readable:
                continue
            # A message with a handle is received by itself, even when the next one is there already.
            try:
                message, handles, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 1)
            except ConnectionError:
                return
            if not message:
                return
            request = json.loads(message)
            scene = socket.socket(fileno=handles[0])
            pid = os.fork() if copies else 0
            if pid == 0:
                selector.close()
                control.close()
                run_request(request, scene)
            scene.close()
            children[pid] = None


def import_all() -> None:
    """Import what every scene needs, without starting a thread."""
    for name in (*_LIBRARIES, "hsfuse.workflows.opened_run", "hsfuse.workflows.run", "hsfuse.workflows.batch.scene"):
        importlib.import_module(name)
    for package in _OWN:
        found = importlib.import_module(f"hsfuse.{package}")
        for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            with contextlib.suppress(ImportError):  # An optional library is missed by the scene that needs it.
                importlib.import_module(module.name)
    # What is there now stays: the collector would only touch, and thereby copy, its pages in every scene.
    gc.collect()
    gc.freeze()


def _reap(children: dict[int, None], control: socket.socket) -> None:
    """Tell how scene processes ended."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del children[pid]
            with contextlib.suppress(OSError):
                control.sendall(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def run_request(request: dict[str, Any], scene: socket.socket) -> None:
    """Run one scene in this process and end it."""
    from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share
    from hsfuse.workflows.batch.scene import run_scene_job

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(scene,), name="watch the batch", daemon=True).start()
    share = Share(**request["share"])
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    with contextlib.suppress(OSError):  # Another machine may not have the folder; absolute paths do not need it.
        os.chdir(request["cwd"])
    writing = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with writing:
            scene.sendall(json.dumps(event, default=str).encode() + b"\n")

    _use_threads(share.threads)
    run_scene_job(
        SceneJob.from_json(request["job"]), Attempt(**request["attempt"]), share, Path(request["folder"]), emit,
        request["version"],
    )  # fmt: skip
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # A forked process must not run what its parent registered for its own end.
    os._exit(0)


def _use_threads(threads: int) -> None:
    """Let matrix libraries use the scene's share, but those that a run uses with one: the host loaded all with one."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from hsfuse.allocator import share_one_arena

    share_one_arena()
    if threads > 1:
        for name in set(BLAS_THREADS) - {OPENBLAS_THREADS}:
            os.environ.pop(name, None)
        blas = [found for found in threadpool_info() if found["user_api"] == "blas"]
        threadpool_limits({found["prefix"]: threads for found in blas if found["internal_api"] != "openblas"})


def _end_with(scene: socket.socket) -> None:
    """End this process at once when the batch has closed its end: the journal keeps what is done."""
    with contextlib.suppress(OSError):
        while scene.recv(1):
            pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # With one thread, matrix libraries start no others: a process may only be copied while it has one.
    own_process(keep_freed_memory=True, one_blas_thread=True)
    main()
