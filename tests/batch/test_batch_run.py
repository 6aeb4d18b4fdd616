"""Whole batches through the command line: byte-equal cubes, failures, second calls, kills."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from batch_archive import QUICK, SETTINGS, SceneArchive, hashes

from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share
from hsfuse.workflows.batch.scene_client import SceneHost

WHOLE = tuple(f"scene_{number:02d}" for number in range(9))


def command(archive: SceneArchive, folder: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "hsfuse", "batch", str(archive.hsi), "--s2", str(archive.s2), "-o", str(folder), *QUICK,
        "--no-progress", "--json", *flags,
    ]  # fmt: skip


def batch(archive: SceneArchive, folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(command(archive, folder, *flags), capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def whole(archive: SceneArchive, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    """A batch over everything: folder, exit code, JSON."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return (folder, *batch(archive, folder))


def test_nine_of_twelve_are_those_of_single_runs(
    whole: tuple[Path, int, dict[str, Any]], single_runs: dict[str, str]
) -> None:
    folder, code, result = whole
    assert code == 9
    assert result["exit_code"] == 9
    assert result["counts"] == {"scenes": 12, "finished": 9, "done_before": 0, "not_done": 3}
    assert {name: facts["status"] for name, facts in result["not_done"].items()} == {
        "scene_09": "unreadable", "scene_10": "failed", "scene_11": "unpaired",
    }  # fmt: skip
    assert hashes(folder) == single_runs
    assert len(set(single_runs.values())) == 9, "the inputs' names stand in the cubes"


def test_summary_names_every_scene(whole: tuple[Path, int, dict[str, Any]]) -> None:
    folder, _, result = whole
    with (folder / "batch.csv").open(encoding="utf-8") as stream:
        rows = {row["scene"]: row for row in csv.DictReader(stream)}
    assert [rows[name]["status"] for name in WHOLE] == ["done"] * 9
    assert {name: rows[name]["exit_code"] for name in ("scene_09", "scene_10", "scene_11")} == {
        "scene_09": "3", "scene_10": "3", "scene_11": "4",
    }  # fmt: skip
    assert rows["scene_04"]["days_apart"] == "2.0"
    assert rows["scene_04"]["output"] == "scene_04.tif"
    page = (folder / "batch.html").read_text(encoding="utf-8")
    assert all(f"scene_{number:02d}" in page for number in range(12))
    assert page.count('class="thumb"') == 9
    assert "days apart" in rows["scene_11"]["reason"]
    collection = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
    items = [link["href"] for link in collection["links"] if link["rel"] == "item"]
    assert items == [f"./{name}.tif.stac.json" for name in WHOLE]
    assert all((folder / item).is_file() for item in items)
    assert collection["extent"]["temporal"]["interval"] == [["2024-06-01T10:30:12.000Z", "2024-08-20T10:30:12.000Z"]]
    assert result["files"]["html"] == str(folder / "batch.html")
    log = (folder / "logs" / "scene_10.log").read_text(encoding="utf-8")
    assert "Traceback" in log


def test_second_call_does_nothing(archive: SceneArchive, whole: tuple[Path, int, dict[str, Any]]) -> None:
    folder, _, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, result = batch(archive, folder)
    assert code == 9
    assert result["counts"] == {"scenes": 12, "finished": 0, "done_before": 9, "not_done": 3}
    assert result["not_done"]["scene_10"]["status"] == "failed before"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_other_settings_are_told_and_made_only_when_asked(
    archive: SceneArchive, whole: tuple[Path, int, dict[str, Any]], single_runs: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    manifest = tmp_path / "one.csv"
    manifest.write_text(f"hsi,s2,output\n{archive.scene(0)},{archive.partner(0)},a.tif\n")
    call = [sys.executable, "-m", "hsfuse", "batch", str(manifest), "-o", str(folder), *QUICK, "--json", "--quiet"]

    def run(*flags: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run([*call, *flags], capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    assert run()[0] == 0
    first = hashes(folder)["a"]
    assert first == single_runs["scene_00"]
    code, result = run("--method", "bicubic")
    assert code == 9
    assert result["not_done"]["a"]["status"] == "outdated"
    assert "other settings" in result["not_done"]["a"]["reason"]
    assert hashes(folder)["a"] == first
    code, result = run("--method", "bicubic", "--redo", "changed")
    assert (code, result["counts"]["finished"]) == (0, 1)
    assert hashes(folder)["a"] != first


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_batch_goes_on_to_the_same_bytes(
    seed: int, archive: SceneArchive, single_runs: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    names = ("scene_00", "scene_03", "scene_04", "scene_08")
    call = manifest_call(archive, tmp_path / "m.csv", folder, names)
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    # From the moment when scenes run; a kill before that would find nothing to spoil.
    while process.poll() is None and b"scene-started" not in _content(folder / "batch.jsonl"):
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0.0, 1.5))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert hashes(folder) == {name: single_runs[name] for name in names}
    assert not list(folder.glob("*.part"))


def manifest_call(archive: SceneArchive, path: Path, folder: Path, names: tuple[str, ...]) -> list[str]:
    path.write_text("hsi\n" + "".join(f"{archive.hsi / name}.he5\n" for name in names))
    call = command(archive, folder)
    call[call.index(str(archive.hsi))] = str(path)
    return call


def test_two_batches_share_a_folder(archive: SceneArchive, single_runs: dict[str, str], tmp_path: Path) -> None:
    names = ("scene_01", "scene_02", "scene_05", "scene_07")
    call = manifest_call(archive, tmp_path / "m.csv", tmp_path / "out", names)
    both = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
    assert hashes(tmp_path / "out") == {name: single_runs[name] for name in names}
    lines = [json.loads(line) for line in _content(tmp_path / "out" / "batch.jsonl").splitlines()]
    assert sorted(e["scene"] for e in lines if e["event"] == "scene-finished") == sorted(names)


def test_a_full_disk_in_the_middle(archive: SceneArchive, single_runs: dict[str, str], tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: a small cube fits, the next does not, the rest is not tried."""
    folder, manifest = tmp_path / "out", tmp_path / "m.csv"
    manifest.write_text(
        "hsi,bands,output\n"
        + "".join(f"{archive.hsi / name}.he5,{count},{name}.tif\n" for name, count in
                  (("scene_00", 2), ("scene_03", 8), ("scene_04", 8), ("scene_06", 8)))
    )  # fmt: skip
    call = command(archive, folder, "--workers", "1")
    call[call.index(str(archive.hsi))] = str(manifest)
    limit = 120_000
    done = subprocess.run(
        call, capture_output=True, text=True, check=False, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert "The disk is full" in result["stopped"]
    statuses = {name: facts["status"] for name, facts in result["not_done"].items()}
    assert statuses == {"scene_03": "failed", "scene_04": "not started", "scene_06": "not started"}, result["not_done"]
    assert [path.stem for path in folder.glob("*.tif")] == ["scene_00"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = {name: single_runs[name] for name in ("scene_03", "scene_04", "scene_06")}
    assert {name: value for name, value in hashes(folder).items() if name != "scene_00"} == whole


def test_a_scene_whose_process_is_killed_is_tried_once_more(
    archive: SceneArchive, single_runs: dict[str, str], tmp_path: Path
) -> None:
    # Where this process stands still for a moment, a scene may be done before it can be killed.
    for attempt in range(5):
        folder = tmp_path / f"out {attempt}"
        call = manifest_call(archive, tmp_path / "m.csv", folder, ("scene_08",))
        batch_process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        path = folder / "batch.jsonl"
        while batch_process.poll() is None and b"scene-started" not in _content(path):
            time.sleep(0.01)
        started = next(e for e in map(json.loads, _content(path).splitlines()) if e["event"] == "scene-started")
        with contextlib.suppress(ProcessLookupError):
            os.kill(started["pid"], signal.SIGKILL)
        _, err = batch_process.communicate(timeout=300)
        assert batch_process.returncode == 0, err.decode()
        assert hashes(folder) == {"scene_08": single_runs["scene_08"]}
        if b"scene-retried" in _content(path):
            break
    assert b"scene-retried" in _content(path)


def test_without_copies_of_a_process_each_scene_starts_anew(
    archive: SceneArchive, single_runs: dict[str, str], tmp_path: Path
) -> None:
    """As on systems where a process with these libraries cannot be copied."""
    with SceneHost(tmp_path, fork=False) as host:
        for number in (0, 3):
            job = SceneJob(
                f"scene_{number:02d}", str(archive.scene(number)), (str(archive.partner(number)),),
                str(tmp_path / f"scene_{number:02d}.tif"), SETTINGS,
            )  # fmt: skip
            process, ended, last = host.run(job, Attempt(), Share(1)), False, {}
            while not ended:
                events, ended = process.read()
                last = events[-1] if events else last
            assert last["kind"] == "finished", last
    assert hashes(tmp_path) == {name: single_runs[name] for name in ("scene_00", "scene_03")}


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
