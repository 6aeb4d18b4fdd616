"""Batches on a Dask cluster of separate processes over TCP on the loopback address."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from batch_archive import QUICK, SETTINGS, SceneArchive, hashes

import hsfuse
from hsfuse.errors import InputError, UsageError
from hsfuse.workflows.batch import cluster

pytest.importorskip("distributed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as stream:
        running = subprocess.Popen([sys.executable, "-m", *arguments], stdout=stream, stderr=stream)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


class LoopbackCluster:
    """A scheduler and workers as processes, each to be killed by itself."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder, self.port = stack, folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()
        self._wait_for_scheduler()

    def _wait_for_scheduler(self) -> None:
        """On a busy machine a scheduler takes longer to start than a batch waits for an answer."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
            except OSError:
                assert self.scheduler.poll() is None, (self._folder / "scheduler.log").read_text()
                time.sleep(0.1)
            else:
                return

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show")
        log = self._folder / "scheduler.log"
        return self._stack.enter_context(process("distributed.cli.dask_scheduler", *options, log=log))

    def start_worker(self, name: str) -> subprocess.Popen[bytes]:
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self._folder))
        arguments = ("distributed.cli.dask_worker", self.address, "--name", name, *options)
        worker = self._stack.enter_context(process(*arguments, log=self._folder / f"{name}.log"))
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int) -> None:
        client = cluster.connect(self.address)
        try:
            client.wait_for_workers(count, timeout=60)
        finally:
            client.close()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[LoopbackCluster]:
    """A cluster of two workers."""
    with ExitStack() as stack:
        made = LoopbackCluster(stack, tmp_path)
        for name in ("first", "second"):
            made.start_worker(name)
        made.wait_for_workers(2)
        yield made


def call(sources: list[str], archive: SceneArchive, folder: Path, scheduler: str, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "hsfuse", "batch", *sources, "--s2", str(archive.s2), "-o", str(folder), *QUICK,
        "--scheduler", scheduler, "--json", *flags,
    ]  # fmt: skip


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "batch.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == kind]


def test_two_workers_one_killed_in_the_middle(
    archive: SceneArchive, loopback: LoopbackCluster, single_runs: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    batch = subprocess.Popen(
        call([str(archive.hsi)], archive, folder, loopback.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while batch.poll() is None and not any(e["where"] == "first" for e in events(folder, "scene-started")):
        time.sleep(0.05)
    time.sleep(0.3)
    loopback.workers[0].kill()
    out, err = batch.communicate(timeout=300)
    assert batch.returncode == 9, err.decode()
    result = json.loads(out.splitlines()[-1])
    assert result["counts"] == {"scenes": 12, "finished": 9, "done_before": 0, "not_done": 3}
    assert result["not_done"]["scene_10"]["exit_code"] == 3
    assert hashes(folder) == single_runs
    assert {e["where"] for e in events(folder, "scene-started")} == {"first", "second"}


def test_a_scheduler_that_comes_back_is_waited_for(
    archive: SceneArchive, loopback: LoopbackCluster, single_runs: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    sources = [str(archive.scene(number)) for number in (0, 3, 6)]
    batch = subprocess.Popen(
        call(sources, archive, folder, loopback.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while batch.poll() is None and not events(folder, "scene-started"):
        time.sleep(0.05)
    loopback.scheduler.kill()
    loopback.scheduler.wait()
    # Workers leave when their scheduler is gone; whoever started them starts them again.
    loopback.start_scheduler()
    loopback.start_worker("third")
    out, err = batch.communicate(timeout=300)
    assert batch.returncode == 0, err.decode()
    assert json.loads(out.splitlines()[-1])["counts"]["not_done"] == 0
    names = ("scene_00", "scene_03", "scene_06")
    assert hashes(folder) == {name: single_runs[name] for name in names}


def test_workers_that_cannot_do_the_work_are_named(loopback: LoopbackCluster, tmp_path: Path, monkeypatch: Any) -> None:
    client = cluster.connect(loopback.address)
    try:
        facts = cluster.check_workers(client, [tmp_path], tmp_path)
        assert len(facts) == 2
        with pytest.raises(InputError, match=r"The worker tcp://127.0.0.1:\d+ does not see /nowhere/scene.he5"):
            cluster.check_workers(client, [tmp_path, Path("/nowhere/scene.he5")], tmp_path)
        monkeypatch.setattr(cluster, "__version__", "99.0")
        with pytest.raises(UsageError, match=r"has hsfuse .*, this machine has 99.0"):
            cluster.check_workers(client, [tmp_path], tmp_path)
    finally:
        client.close()


def test_a_scheduler_that_does_not_answer(archive: SceneArchive, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        call([str(archive.scene(0))], archive, tmp_path / "out", f"tcp://127.0.0.1:{free_port()}"),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "did not answer within 10 s" in done.stderr
    assert time.monotonic() - begun < 60
    with pytest.raises(UsageError, match="no scheduler file"):
        cluster.connect(str(tmp_path / "scheduler.json"))


def test_the_same_settings_give_the_same_bytes_whatever_the_threads(archive: SceneArchive, tmp_path: Path) -> None:
    inputs = archive.scene(0), archive.partner(0)
    outputs = [tmp_path / f"{threads}.tif" for threads in (1, 2, 3)]
    for threads, output in enumerate(outputs, start=1):
        hsfuse.fuse_scene(*inputs, output, threads=threads, **SETTINGS)
    assert len({output.read_bytes() for output in outputs}) == 1
