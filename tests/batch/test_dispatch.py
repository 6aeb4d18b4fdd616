"""The loop of a batch with an executor that plays failures: retries, limits, full disks, other batches."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hsfuse._version import __version__
from hsfuse.cli.app import app
from hsfuse.errors import DiskFullError, InputError, MemoryBudgetError
from hsfuse.workflows.batch.dispatch import Dispatcher, first_attempt
from hsfuse.workflows.batch.display import LineDisplay, SilentDisplay, TableDisplay
from hsfuse.workflows.batch.executors import share_machine
from hsfuse.workflows.batch.jobs import Attempt, PlanEntry, SceneJob, Share
from hsfuse.workflows.batch.lock import SceneLock
from hsfuse.workflows.batch.scene import failure, run_scene_job
from hsfuse.workflows.batch.state import BatchState, Fingerprints, now, settings_id

Answer = Callable[[SceneJob, Attempt], dict[str, Any]]


def finished(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
    record = {"seconds": 1.0, "output": job.output, "height": 3, "width": 3, "verdict": "good"}
    return {"kind": "finished", "record": record, "identity": {"version": __version__, "settings_id": settings_id(job)}}


def failed(error: BaseException) -> dict[str, Any]:
    return failure(error)


class PlayedExecutor:
    """Ends every scene at once, as the test says."""

    def __init__(self, answer: Answer, slots: int = 1) -> None:
        self._answer, self._slots = answer, slots
        self._running: list[tuple[SceneJob, Attempt]] = []
        self.calls: list[tuple[str, Attempt]] = []

    def ready(self, attempt: Attempt) -> bool:
        return len(self._running) < self._slots

    def start(self, job: SceneJob, attempt: Attempt) -> None:
        self.calls.append((job.name, attempt))
        self._running.append((job, attempt))

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        news: list[tuple[str, dict[str, Any]]] = []
        for job, attempt in self._running:
            last = self._answer(job, attempt)
            # A scene of somebody else's has not started here.
            first = [] if last["kind"] in ("busy", "elsewhere") else [(job.name, {"kind": "started", "pid": 1})]
            news += [*first, (job.name, last)]
        self._running = []
        return news

    def withdraw(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing runs."""


def entries(folder: Path, count: int = 4) -> list[PlanEntry]:
    made = []
    for number in range(count):
        source = folder / f"{number}.he5"
        source.write_bytes(b"x")
        job = SceneJob(f"s{number}", str(source), (str(source),), str(folder / f"s{number}.tif"), pixels=10 * number)
        made.append(PlanEntry(job.name, job.hsi, "run", job=job))
    return made


def dispatch(folder: Path, answer: Answer, **options: Any) -> tuple[Dispatcher, PlayedExecutor]:
    executor = PlayedExecutor(answer)
    return Dispatcher(
        entries(folder), executor, BatchState(folder), SilentDisplay(), batch="b", planned=now(), **options
    ), executor


def test_longest_first(tmp_path: Path) -> None:
    dispatcher, executor = dispatch(tmp_path, finished)
    assert set(dispatcher.run().finished) == {"s0", "s1", "s2", "s3"}
    assert [name for name, _ in executor.calls] == ["s3", "s2", "s1", "s0"]


def test_a_failure_stops_nobody_and_is_not_repeated(tmp_path: Path) -> None:
    def answer(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        return failed(InputError("broken")) if job.name == "s3" else finished(job, attempt)

    dispatcher, executor = dispatch(tmp_path, answer)
    outcome = dispatcher.run()
    assert (set(outcome.finished), set(outcome.failed)) == ({"s0", "s1", "s2"}, {"s3"})
    assert len(executor.calls) == 4
    assert outcome.failed["s3"]["exit_code"] == 3


def test_what_may_pass_is_tried_once_more(tmp_path: Path) -> None:
    def answer(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        if job.name == "s1" or (job.name == "s3" and attempt.number == 1):
            error = InputError("unreadable")
            error.__cause__ = OSError(116, "Stale file handle")
            return failed(error)
        return finished(job, attempt)

    dispatcher, executor = dispatch(tmp_path, answer)
    outcome = dispatcher.run()
    assert set(outcome.failed) == {"s1"}
    assert [attempt.number for name, attempt in executor.calls if name in ("s1", "s3")] == [1, 2, 1, 2]


@pytest.mark.parametrize("error", [MemoryError(), MemoryBudgetError("too little")])
def test_out_of_memory_is_tried_alone_with_half_the_tile(tmp_path: Path, error: BaseException) -> None:
    def answer(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        if job.name == "s3" and attempt.number == 1:
            part = Path(job.output + ".part")
            part.mkdir()
            (part / "manifest.json").write_text(json.dumps({"plan": {"tile": 64}}))
            return failed(error)
        return finished(job, attempt)

    dispatcher, executor = dispatch(tmp_path, answer)
    assert not dispatcher.run().failed
    assert executor.calls[-1] == ("s3", Attempt(2, replace=True, tile=96, alone=True)), "64 HSI pixels are 192, halved"


def test_max_failures_and_a_full_disk_stop_the_rest(tmp_path: Path) -> None:
    def broken(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        return failed(InputError("broken"))

    dispatcher, _ = dispatch(tmp_path, broken, max_failures=2)
    outcome = dispatcher.run()
    assert (len(outcome.failed), outcome.not_started) == (2, ["s1", "s0"])
    assert "2 scenes failed (--max-failures)" in outcome.stopped

    def full(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        return finished(job, attempt) if job.name == "s3" else failed(DiskFullError("The disk is full."))

    (tmp_path / "second").mkdir()
    dispatcher, executor = dispatch(tmp_path / "second", full)
    outcome = dispatcher.run()
    assert (set(outcome.finished), set(outcome.failed), outcome.not_started) == ({"s3"}, {"s2"}, ["s1", "s0"])
    assert "The disk is full" in outcome.stopped
    assert len(executor.calls) == 2


def test_a_state_that_cannot_be_written_stops_new_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    dispatcher, _ = dispatch(tmp_path, finished)
    monkeypatch.setattr(BatchState, "add", full)
    outcome = dispatcher.run()
    assert set(outcome.finished) == {"s3"}, "what ran comes to its end"
    assert outcome.not_started == ["s2", "s1", "s0"]
    assert "No space left on device" in outcome.stopped


def test_a_scene_of_another_batch_is_waited_for_and_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsfuse.workflows.batch.dispatch._BUSY_S", 0.0)
    other = BatchState(tmp_path)

    def answer(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        if job.name != "s3":
            return finished(job, attempt)
        result = finished(job, attempt)
        inputs = [
            {"name": Path(p).name, "stat": [1, Path(p).stat().st_mtime_ns], "fingerprint": ""} for p in job.inputs
        ]
        other.add(
            "scene-finished", scene="s3", batch="other", record=result["record"],
            identity=result["identity"] | {"inputs": inputs},
        )  # fmt: skip
        return {"kind": "busy"}

    dispatcher, executor = dispatch(tmp_path, answer)
    outcome = dispatcher.run()
    assert outcome.by_others == ["s3"]
    assert set(outcome.finished) == {"s0", "s1", "s2"}
    assert [name for name, _ in executor.calls].count("s3") == 1


def test_a_scene_that_ends_between_the_look_and_the_lock_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch that waits asked while the other's scene still ran; it gets the lock when that has ended."""
    job = entries(tmp_path, 1)[0].job
    assert job is not None
    made: list[str] = []

    def make(job: SceneJob, attempt: Attempt, *_: Any) -> dict[str, Any]:
        made.append(attempt.batch)
        return finished(job, attempt) | {"identity": Fingerprints().of(job) | {"version": __version__}}

    monkeypatch.setattr("hsfuse.workflows.batch.scene._run", make)
    monkeypatch.setattr("hsfuse.workflows.batch.scene._redirect", lambda *_: None)
    planned = now()

    def run(attempt: Attempt) -> list[str]:
        events: list[dict[str, Any]] = []
        run_scene_job(job, attempt, Share(threads=1), tmp_path, events.append, __version__)
        return [event["kind"] for event in events]

    assert run(Attempt(batch="first", planned=planned)) == ["started", "finished"]
    assert BatchState(tmp_path).scenes["s0"].status == "finished", "known before anybody else gets the lock"
    assert run(Attempt(batch="second", planned=planned)) == ["elsewhere"]
    assert made == ["first"]
    later = Attempt(batch="third", planned="9999", replace=True)
    assert run(later) == ["started", "finished"], "a batch that was planned later and wants it anew makes it"


def test_what_ended_elsewhere_counts_as_finished_by_others(tmp_path: Path) -> None:
    def answer(job: SceneJob, attempt: Attempt) -> dict[str, Any]:
        return {"kind": "elsewhere"} if job.name == "s3" else finished(job, attempt)

    dispatcher, _ = dispatch(tmp_path, answer)
    outcome = dispatcher.run()
    assert (outcome.by_others, set(outcome.finished)) == (["s3"], {"s0", "s1", "s2"})
    assert "s3" not in BatchState(tmp_path).scenes, "the other batch has written it down"


def test_torn_lines_are_skipped_and_closed(tmp_path: Path) -> None:
    state = BatchState(tmp_path)
    state.add("scene-started", scene="a", batch="b")
    with state.path.open("ab") as stream:
        stream.write(b'{"event": "scene-fini')
    state = BatchState(tmp_path)
    assert state.scenes["a"].status == "started"
    state.add("scene-failed", scene="a", exit_code=3)
    assert BatchState(tmp_path).scenes["a"].status == "failed"
    assert state.scenes["a"].status == "failed"
    assert len(state.path.read_bytes().splitlines()) == 3


def test_an_interrupted_scene_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    entry = entries(tmp_path, 1)[0]
    assert entry.job is not None
    state = BatchState(tmp_path)
    about = {"scene": "s0", "settings_id": settings_id(entry.job), "version": __version__}
    state.add("scene-started", **about, replace=False, tile=None)
    assert first_attempt(entry, state) == Attempt()
    state.add("scene-started", **about, replace=True, tile=48)
    assert first_attempt(entry, state) == Attempt(replace=True, tile=48)
    changed = replace(entry, job=replace(entry.job, settings={"bands": "7"}))
    assert first_attempt(changed, state) == Attempt(replace=True), "rows of other settings are of no use"


def test_status_from_another_terminal(tmp_path: Path) -> None:
    state = BatchState(tmp_path)
    state.add("batch-started", batch="b", scenes=["s0", "s1", "s2", "s3"])
    for name in ("s0", "s1", "s2"):
        state.add("scene-started", scene=name, batch="b")
    state.add("scene-failed", scene="s2", batch="b", exit_code=5, message="rejected")
    with SceneLock(tmp_path, "s0") as lock:
        lock._noted = 0.0
        lock.note(stage="fuse", fraction=0.4)
        done = CliRunner().invoke(app, ["batch-status", str(tmp_path), "--json"])
        text = CliRunner().invoke(app, ["batch-status", str(tmp_path)]).output
    facts = {scene["scene"]: scene for scene in json.loads(done.stdout)["scenes"]}
    assert {name: scene["status"] for name, scene in facts.items()} == {
        "s0": "running", "s1": "interrupted", "s2": "failed", "s3": "waiting",
    }  # fmt: skip
    assert (facts["s0"]["stage"], facts["s0"]["fraction"]) == ("fuse", 0.4)
    assert "fuse 40 %" in text
    assert "failed      s2  rejected" in text
    foreign = CliRunner().invoke(app, ["batch-status", str(tmp_path / "x")])
    assert foreign.exit_code == 3
    assert "is no folder of a batch" in foreign.output


def test_one_scene_one_worker(tmp_path: Path) -> None:
    with SceneLock(tmp_path, "a/b"), pytest.raises(BlockingIOError):
        SceneLock(tmp_path, "a/b")
    SceneLock(tmp_path, "a/b").close()


def test_lines_say_how_long_it_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jobs = [entry.job for entry in entries(tmp_path, 3) if entry.job is not None]
    display = LineDisplay(jobs)
    for job in jobs[1:]:
        display.started(job, Attempt(), "")
        display.ended(job, "done in 1 s", good=True)
    shown = capsys.readouterr().err
    assert "[1/3] s1: done in 1 s; about 0 s left" in shown
    display.ended(jobs[0], "failed (3): broken", good=False)
    assert "[3/3] s0: failed (3): broken\n" in capsys.readouterr().err


def test_shares_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = "hsfuse.workflows.batch.executors"
    large = [SceneJob(str(i), "", (), "", pixels=1_200_000) for i in range(20)]

    def shares(cores: int, memory: str | None, **options: Any) -> tuple[int, Share]:
        monkeypatch.setattr(f"{where}.usable_cores", lambda: cores)
        settings: dict[str, Any] = {"workers": None, "threads": None, "gpus": []} | options
        found = share_machine(large, max_memory=memory, **settings)
        return len(found.each), found.each[-1]

    count, share = shares(2, "24GB")
    assert (count, share.threads) == (2, 1)
    assert share.memory is not None
    assert 2 * share.memory < 24e9
    assert shares(16, "64GB")[0] == 8
    assert shares(16, "64GB")[1].threads == 2
    assert shares(64, "8GB")[0] == 5, "the memory decides"
    assert shares(64, "256GB")[0] == 16
    assert shares(8, "64GB", gpus=["0", "1"])[1] == Share(4, shares(8, "64GB", gpus=["0", "1"])[1].memory, "1")
    assert shares(8, "64GB", workers=3, threads=2)[1].threads == 2
    monkeypatch.setattr(f"{where}.available_memory", lambda: 24 * 10**9)
    assert shares(2, None) == (2, Share(1)), "with memory to spare, tiles are those of a single run"
    monkeypatch.setattr(f"{where}.available_memory", lambda: 5_200_000_000)
    count, share = shares(2, None)
    assert share.memory is not None
    assert count * share.memory < 0.7 * 5.2e9


def test_the_table_on_a_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    jobs = [entry.job for entry in entries(tmp_path, 3) if entry.job is not None]
    display = TableDisplay(jobs)
    try:
        display.started(jobs[1], Attempt(), "node7")
        display.progress("s1", "fuse", 0.5)
        display.refresh()
        display.ended(jobs[2], "done", good=True)
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(display._table())
    finally:
        display.close()
    text = console.export_text()
    assert "1 of 3 scenes" in text
    assert "node7" in text
    assert "fuse" in text
