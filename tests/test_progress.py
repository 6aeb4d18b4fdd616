"""Progress: numbered steps, the reckoning of the whole run, lines and the live display."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from hsfuse.config import RunConfig
from hsfuse.progress import LineProgress, RichProgress, Step, Within, expect, note
from hsfuse.progress.terminal import figures, headline
from hsfuse.progress.tracker import ProgressTracker, SmoothedEstimate, State
from hsfuse.workflows.steps.foresight import TEXTS, foreseen


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tracker_of(*seconds: float) -> tuple[ProgressTracker, Clock]:
    clock = Clock()
    tracker = ProgressTracker(clock)
    tracker.expect([Step(f"s{i}", f"text {i}", value) for i, value in enumerate(seconds, start=1)])
    return tracker, clock


def test_the_whole_is_estimated_from_the_first_second() -> None:
    tracker, _ = tracker_of(10.0, 30.0)
    state = tracker.state()
    assert (state.number, state.count, state.name, state.left) == (1, 2, "s1", 40.0)
    assert headline(state) == "1/2 s1: text 1"


def test_a_slow_machine_shows_in_what_is_to_come() -> None:
    tracker, clock = tracker_of(10.0, 30.0)
    tracker.begin("s1", 1.0)
    clock.now = 40.0
    tracker.end("s1")
    # 40 s instead of 10: the other step will take more than the 30 s that were foreseen, less than four times as much.
    assert 60.0 < (tracker.state().left or 0.0) < 120.0


def test_a_step_that_hangs_on_the_images_says_nothing_about_the_machine() -> None:
    # A season between the images makes the search for changes many times as long; nothing else takes longer for it.
    steps = [step for step in foreseen(RunConfig(), planned=dict.fromkeys(("changes", "learn", "fuse", "finish"), 5.0))
             if step.name in ("find changes", "fuse", "judge")]  # fmt: skip
    clock = Clock()
    tracker = ProgressTracker(clock)
    tracker.expect(steps)
    tracker.begin("find changes", 1.0)
    clock.now = 60.0
    tracker.end("find changes")
    assert tracker.state().left == pytest.approx(10.0)


def test_what_a_step_reports_counts_the_more_the_more_is_done() -> None:
    tracker, clock = tracker_of(100.0)
    tracker.begin("s1", 10.0)
    clock.now = 10.0
    tracker.advance("s1", 5.0)
    assert 10.0 < (tracker.state().left or 0.0) < 60.0
    tracker.advance("s1", 4.5)
    assert (tracker.state().left or 0.0) < 6.0


def test_measured_and_timed_steps_keep_their_own_time() -> None:
    clock = Clock()
    tracker = ProgressTracker(clock)
    tracker.expect([Step("a", "", 1.0), Step("train", "", 60.0, timed=True), Step("fuse", "", 20.0, measured=True)])
    tracker.begin("a", 1.0)
    clock.now = 10.0
    tracker.end("a")
    assert tracker.state().left == 80.0


def test_a_step_that_is_passed_over_is_not_waited_for() -> None:
    tracker, _ = tracker_of(10.0, 30.0, 5.0)
    tracker.begin("s3", 1.0)
    state = tracker.state()
    assert (state.number, state.left) == (3, 5.0)
    tracker.end("s3")
    assert tracker.state().left == 0.0
    assert headline(tracker.state()).startswith("end:")


def test_a_stage_that_nobody_expected_is_a_note() -> None:
    tracker, _ = tracker_of(10.0)
    tracker.begin("s1", 1.0)
    tracker.end("s1")
    tracker.begin("something", 2.0)
    tracker.advance("something", 1.0)
    assert "something" in headline(tracker.state())


def test_lines_stand_for_every_twentieth_of_the_run() -> None:
    out = io.StringIO()
    progress = LineProgress(out)
    expect(progress, [Step("open", "read the headers", 1e-6), Step("fuse", "inject", 1e-3)])
    with progress.stage("open") as stage:
        stage.advance()
    with progress.stage("fuse", 1000) as stage:
        for _ in range(1000):
            stage.advance()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("1/2 open: read the headers")
    assert any(line.startswith("2/2 fuse: inject") for line in lines)
    assert lines[-1].startswith("2/2 fuse: done in")
    percent = [int(line.split(" ")[0]) for line in lines if " % of the run" in line]
    assert percent == sorted(set(percent))
    assert all(value % 5 == 0 for value in percent)


def test_stages_beside_a_plan_are_not_told() -> None:
    out = io.StringIO()
    progress = LineProgress(out)
    expect(progress, [Step("fuse", "inject", 1.0)])
    with progress.stage("fuse") as stage, progress.stage("judge"):
        stage.advance()
    with progress.stage("judge"):
        pass
    assert "judge" not in out.getvalue()


def test_without_a_plan_lines_are_of_the_stage() -> None:
    out = io.StringIO()
    with LineProgress(out).stage("draw", 100) as stage:
        for _ in range(100):
            stage.advance()
    assert len(out.getvalue().splitlines()) == 20
    assert "draw: 50 %" in out.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_words_stay_whole(width: int) -> None:
    screen = io.StringIO()
    progress = RichProgress(Console(file=screen, width=width, force_terminal=True, color_system=None))
    try:
        expect(progress, foreseen(RunConfig(quality="best")))
        with progress.stage("co-register", 10) as stage:
            stage.advance(3)
            note(stage, "windows")
    finally:
        progress.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line.rstrip() for line in plain.replace("\r", "\n").splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in screen.getvalue()
    assert any(line.startswith("2/") for line in lines)


def test_figures_name_step_and_whole() -> None:
    tracker, clock = tracker_of(10.0, 10.0)
    tracker.begin("s1", 2.0)
    clock.now = 5.0
    tracker.advance("s1", 1.0)
    assert figures(tracker.state()) == "25 %  step 50 %, 5 s gone, about 15 s left"


def test_a_part_stands_within_the_whole() -> None:
    out = io.StringIO()
    whole = LineProgress(out)
    part = Within(whole, [Step("before")], [Step("after")])
    expect(part, [Step("fuse")])
    with part.stage("fuse"):
        pass
    assert out.getvalue().startswith("2/3 fuse")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"method": "glp"}, "open, co-register, estimate blur, find changes, learn from the scene, fuse, judge"),
        ({"method": "glp", "quality": "plain", "report": False},
             "open, co-register, estimate blur, learn from the scene, fuse, write"),
        ({"method": "ssrfn-lite", "adapt": 1.0, "coregister": "off", "psf_fwhm": 1.2},
         "open, find changes, train, learn from the scene, fuse, judge"),
        ({"quality": "fast", "compress": "lerc", "dtype": "float32"},
         "open, co-register, estimate blur, find changes, learn from the scene, fuse, write, judge"),
    ],
)  # fmt: skip
def test_a_run_says_what_it_will_do(settings: dict[str, object], names: str) -> None:
    steps = foreseen(RunConfig(**settings))
    assert ", ".join(step.name for step in steps) == names
    assert all(step.seconds > 0 and TEXTS[step.name] for step in steps)
    assert [step.name for step in foreseen(RunConfig(), dry_run=True)] == ["open"]


def test_what_is_shown_follows_without_jumps() -> None:
    def seen(elapsed: float, left: float) -> State:
        return State(1, 1, "fuse", "", "", None, elapsed, left)

    smoothed = SmoothedEstimate(lag_s=3.0)
    assert smoothed(seen(0.0, 30.0)).left == 30.0
    spike = smoothed(seen(0.25, 60.0)).left or 0.0
    assert 30.0 < spike < 35.0
    shown = 0.0
    for quarter in range(2, 80):
        shown = smoothed(seen(quarter / 4, 40.0 - quarter / 4)).left or 0.0
    assert shown == pytest.approx(40.0 - 79 / 4, abs=0.1)
