"""The processes in which cases of fuzz.py run: each has its own streams and temporary folder, and none hangs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

HANG_CPU_S, HANG_IDLE_S, HANG_WALL_S = 20.0, 60.0, 300.0
"""A case hangs when it computes for longer, when nothing of it computes, or, on however busy a machine, never ends."""
_CASES_OF_A_WORKER = 150
"""Then another takes its place: what grows with every case must not decide the later ones."""
_MODULE = ("-m", "hsfuse")
_server = multiprocessing.get_context("forkserver")
_own = threading.local()


def preload() -> None:
    """Let the server import what every case needs."""
    _server.set_forkserver_preload(
        ["hsfuse.workflows.run", "hsfuse.workflows.opened_run", "hsfuse.workflows.steps.product", "hsfuse.cli.app"]
    )


def _know_the_speed() -> None:
    """Take a speed for known: to measure it takes longer than everything else of such a run."""
    from hsfuse.inference.speed import MachineSpeed
    from hsfuse.workflows.steps import run_summary

    run_summary.measure_speed = lambda workers: MachineSpeed(1e11, 1.5e9, 1.4e8, 4e5, workers)  # type: ignore[attr-defined]


def _stand_in(scratch: str, streams: dict[str, str]) -> None:
    """Send the standard streams to files, and temporary files to the case's own folder."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(streams.get(name, f"{scratch}/{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, number)
        os.close(target)
    os.environ["TMPDIR"] = tempfile.tempdir = f"{scratch}/tmp"


def _child(arguments: list[str], scratch: str, moment: str, limits: dict[str, int], streams: dict[str, str]) -> None:
    """Run one command as the command line does, and end."""
    _stand_in(scratch, streams)
    _know_the_speed()
    if moment:
        _die_at(moment)
    if limits:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(kind, (value, value))
    sys.argv = ["hsfuse", *arguments]
    from hsfuse.__main__ import main

    main()


def _serve(channel: Any) -> None:
    """Run one command after another; answer with their exit codes."""
    from hsfuse.cli.app import app
    from hsfuse.process import own_process

    own_process(keep_freed_memory=True)
    _know_the_speed()
    with contextlib.suppress(EOFError):
        while True:
            arguments, scratch = channel.recv()
            _stand_in(scratch, {})
            try:
                app(arguments)
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 0
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            channel.send(code)


def _die_at(moment: str) -> None:
    from hsfuse.writers import cube_writer, journal, publish

    def reached(name: str) -> None:
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (cube_writer, journal, publish):
        module.reached = reached  # type: ignore[attr-defined]


class _Watch:
    """Tells when a process hangs."""

    def __init__(self, pid: int | None) -> None:
        self._pid, self._start, self._before = pid, time.monotonic(), _computed(pid)
        self._active, self._last = self._start, self._before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def hangs(self) -> bool:
        now, computed = time.monotonic(), _computed(self._pid)
        if computed > self._last:
            self._active, self._last = now, computed
        too_long = self.seconds > HANG_WALL_S or computed - self._before > HANG_CPU_S
        return too_long or now - self._active > HANG_IDLE_S


def _computed(pid: int | None) -> float:
    """Seconds that a process has computed; 0 when it is gone."""
    try:
        return float(sum(psutil.Process(pid).cpu_times()[:2]))
    except psutil.Error:
        return 0.0


class Worker:
    """A process that runs commands one after another."""

    def __init__(self) -> None:
        self._channel, theirs = _server.Pipe()
        self._process = _server.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.cases = 0

    def run(self, arguments: list[Any], scratch: Path) -> tuple[int | None, float, str]:
        """Run a command; return exit code (None: it hung; negative: a signal ended the process), seconds, words."""
        _empty(scratch)
        self.cases += 1
        watch = _Watch(self._process.pid)
        try:
            self._channel.send(([str(a) for a in arguments], str(scratch)))
            while not self._channel.poll(0.5):
                if watch.hangs:
                    self.end()
                    return None, watch.seconds, ""
            code = self._channel.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or -1
        return code, watch.seconds, _said(scratch)

    @property
    def usable(self) -> bool:
        """Whether it may be given another command."""
        return self._process.is_alive() and self.cases < _CASES_OF_A_WORKER

    def end(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.kill()
        self._process.join()


def serve(arguments: list[Any], scratch: Path) -> tuple[int | None, float, str]:
    """Run a command in this thread's own process that stays."""
    worker: Worker | None = getattr(_own, "worker", None)
    if worker is None or not worker.usable:
        end_worker()
        worker = _own.worker = Worker()
    return worker.run(arguments, scratch)


def end_worker() -> None:
    """End this thread's own process."""
    worker: Worker | None = getattr(_own, "worker", None)
    if worker is not None:
        worker.end()
        _own.worker = None


def call(
    arguments: list[Any], scratch: Path, *, moment: str = "", limits: dict[str, int] | None = None,
    streams: dict[str, str] | None = None,
) -> tuple[int | None, float, str]:  # fmt: skip
    """Run a command in a process of its own; the same answer as of :meth:`Worker.run`."""
    _empty(scratch)
    process = _server.Process(
        target=_child, args=([str(a) for a in arguments], str(scratch), moment, limits or {}, streams or {})
    )
    process.start()
    watch = _Watch(process.pid)
    while process.is_alive() and not watch.hangs:
        process.join(0.2)
    if process.is_alive():
        process.kill()
        process.join()
        return None, watch.seconds, ""
    return process.exitcode, watch.seconds, _said(scratch)


def call_fresh(arguments: list[Any], scratch: Path, *, address_space: int) -> tuple[int | None, float, str]:
    """Run a command in a new interpreter that may map so many bytes; the same answer as of :meth:`Worker.run`."""
    _empty(scratch)
    line = f'ulimit -v {address_space >> 10}; exec "$@"'
    command = ["bash", "-c", line, "-", sys.executable, *_MODULE, *map(str, arguments)]
    with (scratch / "stdout").open("wb") as stdout, (scratch / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, env={**os.environ, "TMPDIR": str(scratch / "tmp")}
        )
        watch = _Watch(process.pid)
        while process.poll() is None and not watch.hangs:
            time.sleep(0.2)
        if process.poll() is None:
            process.kill()
            process.wait()
            return None, watch.seconds, ""
    return process.returncode, watch.seconds, _said(scratch)


def _empty(scratch: Path) -> None:
    (scratch / "tmp").mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (scratch / name).write_bytes(b"")


def _said(scratch: Path) -> str:
    return "".join((scratch / name).read_text("utf-8", "replace") for name in ("stderr", "stdout"))
