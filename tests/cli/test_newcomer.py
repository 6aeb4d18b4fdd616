"""What a newcomer sees on a terminal of 80 columns: no silence, numbered steps, an estimate, an answer to Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from hsfuse.simulate.products import SimulatedPair, simulate_pair

SLOW_WORK = """
import sys, time
import typer
from hsfuse.cli.signals import end_on_signals
from hsfuse.cli.session import Session
from hsfuse.progress import Step, expect

end_on_signals()
session = Session()
def work():
    progress = session.progress
    time.sleep(3)
    expect(progress, [Step("co-register", "match in windows", 3.0), Step("fuse", "inject detail", 20.0)])
    with progress.stage("co-register"):
        time.sleep(3)
    print("READY", flush=True)
    with progress.stage("fuse", 100):
        time.sleep(60)

try:
    with session.errors():
        work()
except typer.Exit as leaving:
    sys.exit(leaving.exit_code)
"""
"""A run that computes for seconds without a word."""


ATTEMPTS = 5
"""A machine may stand still for seconds once, but not each time."""
ANSWER = re.compile("stopping|interrupted")
"""The first where work is made safe, the second where there is none and the end is there already."""


def watch(command: list[str], until: Callable[[str], bool] = lambda _: False) -> tuple[int, str, list[float], float]:
    """Run on a pseudo-terminal; return exit code, text, times of output, and seconds from an interrupt to its answer.

    Once ``until`` is true of the text, the command is interrupted as by Ctrl-C.
    """
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    os.close(slave)
    text, times, interrupted, answered = "", [time.monotonic()], 0.0, 0.0
    try:
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.05)[0]:
                try:
                    data = os.read(master, 1 << 16)
                except OSError:
                    break
                text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode("utf-8", "replace"))
                times.append(time.monotonic())
                if interrupted and not answered and ANSWER.search(text):
                    answered = times[-1] - interrupted
            if not interrupted and until(text):
                interrupted = time.monotonic()
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    finally:
        process.kill()
        os.close(master)
    return code, text, times, answered


def test_nothing_is_silent_and_ctrl_c_is_answered() -> None:
    for _ in range(ATTEMPTS):
        code, text, times, answered = watch([sys.executable, "-c", SLOW_WORK], until=lambda seen: "READY" in seen)
        assert code == 130, text
        assert answered > 0.0, text
        # The start of the interpreter is the machine's business; from the first sign on the display never rests.
        longest = max(b - a for a, b in pairwise(times[1:]))
        if longest < 2.0 and answered < 1.0:
            break
    assert longest < 2.0
    assert answered < 1.0
    assert "start: load libraries" in text
    assert "1/2 co-register: match in windows" in text
    assert re.search(r"2/2 fuse: inject detail\r?\n.* left", text)
    assert "interrupted" in text


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A pair of 2.4 km."""
    return simulate_pair(tmp_path_factory.mktemp("newcomer"), size_px=(80, 80), seed=3, s2_bands="10m", pan=False)


def test_a_run_numbers_its_steps_and_keeps_words_whole(products: SimulatedPair, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    code, text, _, _ = watch(
        [sys.executable, "-m", "hsfuse", "run", str(products.prisma), str(products.sentinel2), "-o", str(output),
         "--method", "bicubic", "--bands", "20", "--no-report", "--coregister", "global"]
    )  # fmt: skip
    assert code == 0, text
    for number, name in enumerate(("open", "co-register", "estimate blur", "learn from the scene", "fuse", "write"), 1):
        assert f"{number}/6 {name}: " in text
    shown = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert max(len(line) for line in shown if str(tmp_path) not in line) <= 80
    # The estimate stands there before anything is known of the scene: with the first bar of a step, which is that of
    # opening unless the headers are read between two drawings.
    first_bar = text.partition("1/6 open")[2].partition(" gone")[2]
    assert re.match(r", about \d+ s left", first_bar), text
    assert output.is_file()
