"""Start scenes in processes of their own and hear how they fare: the other end of ``scene_host``."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from hsfuse._version import __version__
from hsfuse.errors import HsfuseError
from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share
from hsfuse.workflows.batch.scene_host import can_fork

_START_S = 120.0


class SceneHost:
    """A process that runs scenes, each in a process of its own; a context manager. Several threads may use it.

    The process starts at once and imports beside whatever is done here; the first scene waits for it.

    Parameters
    ----------
    folder
        The batch's folder.
    fork
        Copy one process for all scenes; without it, each scene starts and imports anew. Default: where that works.
    cwd, version
        Folder that relative paths of settings start from, and version of hsfuse that the batch has; default: those of
        this process.
    """

    def __init__(
        self, folder: Path, *, fork: bool | None = None, cwd: str | None = None, version: str = __version__
    ) -> None:
        self._folder, self._cwd, self._version = folder, cwd or str(Path.cwd()), version
        self._fork = can_fork() if fork is None else fork
        self._lock = threading.Lock()
        self._used: list[subprocess.Popen[bytes]] = []
        self._ended: dict[int, int] = {}
        self._start()

    def _start(self) -> None:
        self._ready, self._buffer = False, b""
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hsfuse.workflows.batch.scene_host", str(there.fileno()),
                 "fork" if self._fork else "once"],
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self._control = here

    def run(self, job: SceneJob, attempt: Attempt, share: Share) -> SceneProcess:
        """Start a scene.

        Raises
        ------
        HsfuseError
            The process that scenes are born from did not start.
        """
        request = {
            "job": job.to_json(), "attempt": asdict(attempt), "share": asdict(share), "folder": str(self._folder),
            "cwd": self._cwd, "version": self._version,
        }  # fmt: skip
        here, there = socket.socketpair()
        with there, self._lock:
            self._wait_ready()
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [there.fileno()])
            except OSError as error:
                here.close()
                raise HsfuseError("The process that runs scenes has ended.") from error
            if not self._fork:
                self._control.close()
                self._used.append(self._process)
                self._start()
        return SceneProcess(self, here)

    def exit_code(self, pid: int) -> int | None:
        """How a scene's process ended: negative for a signal; None while that is not known."""
        with self._lock:
            for process in self._used:
                if process.pid == pid:
                    return process.poll()
            self._read_ends()
            return self._ended.get(pid)

    @property
    def pid(self) -> int:
        """Process that scenes are born from."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process; scenes that run end too when their handles are closed."""
        self._control.close()
        for process in (self._process, *self._used):
            try:
                process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_ready(self) -> None:
        if self._ready:
            return
        self._control.settimeout(_START_S)
        try:
            answer = self._control.recv(6)
        except OSError:
            answer = b""
        if answer != b"ready\n":
            code = self._process.poll()
            raise HsfuseError(
                f"The process that runs scenes did not start (exit code {code}).", hint="Run `hsfuse doctor`."
            )
        self._control.setblocking(False)
        self._ready = True

    def _read_ends(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while chunk := self._control.recv(65536):
                self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            entry = json.loads(line)
            self._ended[int(entry["pid"])] = int(entry["code"])


class SceneProcess:
    """A running scene.

    Attributes
    ----------
    pid
        Its process; 0 until it has said so.
    """

    def __init__(self, host: SceneHost, connection: socket.socket) -> None:
        self._host, self._connection = host, connection
        self._buffer = b""
        self._last: dict[str, Any] = {}
        self.pid = 0

    def fileno(self) -> int:
        """For waiting on several scenes at a time."""
        return self._connection.fileno()

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return new events, and whether the scene has ended; waits until there is something to say.

        A process that ended without saying how gives a ``failed`` event of its own.
        """
        try:
            chunk = self._connection.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        events = [json.loads(line) for line in lines]
        for event in events:
            if event["kind"] == "started":
                self.pid = int(event["pid"])
            if event["kind"] != "progress":
                self._last = event
        if chunk:
            return events, False
        self._connection.close()
        if self._last.get("kind") not in ("finished", "failed", "busy", "elsewhere"):
            events.append(self._lost())
        return events, True

    def _lost(self) -> dict[str, Any]:
        code, waited = self._host.exit_code(self.pid), 0.0
        while code is None and self.pid and waited < 2.0:
            time.sleep(0.05)
            waited += 0.05
            code = self._host.exit_code(self.pid)
        killed = code is not None and code == -9
        how = "was killed, probably because the memory ran out" if killed else "ended without a word"
        if code is not None and code < 0 and not killed:
            how = f"was ended by signal {-code}"
        return {
            "kind": "failed", "exit_code": 6 if killed else 1, "message": f"The scene's process {how}.",
            "hint": "See the scene's log.", "transient": not killed, "out_of_memory": killed, "disk_full": False,
            "lost": True,
        }  # fmt: skip

    def end(self) -> None:
        """End the scene now; its journal keeps what is done."""
        self._connection.close()
