"""Ends that are not clean: streams that are full or closed, log files, signals, limits, odd names and encodings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.cli.session import Session
from hsfuse.log import as_details, configure, get_logger

runner = CliRunner()
COMMAND = f"{sys.executable} -m hsfuse"
MISSING = "info nothing.he5"


def _shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@full
@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        ("config > /dev/full", 7),
        ("--help > /dev/full", 7),
        ("config 2> /dev/full", 0),
        ("config >&-", 0),
        ("config >&- 2>&-", 0),
        ("config | head -c 5", 0),
        ("--help | head -1", 0),
        (f"{MISSING} 2> /dev/full", 3),
        (f"{MISSING} 2>&-", 3),
        (f"{MISSING} --json > /dev/full", 3),
    ],
)
def test_streams_that_take_nothing_are_no_bug(redirection: str, code: int) -> None:
    done = _shell(f"{COMMAND} {redirection}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_file_that_is_opened_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    target = tmp_path / "settings.toml"
    done = _shell(f"{COMMAND} config -o {target} >&- 2>&- <&-")
    assert done.returncode == 0
    assert target.read_text().startswith("#")


@full
def test_a_log_file_on_a_full_disk_is_given_up_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_file=Path("/dev/full"))
    get_logger("x").info("first")
    get_logger("x").info("second")
    said = capsys.readouterr().err
    assert said.count("takes no more") == 1
    assert "second" in said
    assert "Traceback" not in said


MISTAKES = [
    ["coregister", "a.tif", "b.tif", "-o", "c.tif"],
    ["coregister", "a.tif"],
    ["coregister", "a.tif", "b.tif", "-o", "c.tif", "--search-m", "none"],
    ["coregister", "a.tif", "b.tif", "-o", "c.tif", "--window-px", "3"],
]


@pytest.mark.parametrize("arguments", MISTAKES)
def test_errors_reach_the_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, [*arguments, "--log-file", "log"])
    assert done.exit_code in (2, 3)
    text = (tmp_path / "log").read_text()
    assert done.stderr.splitlines()[0].removeprefix("error: ") in text
    assert f"exit code {done.exit_code}" in text


@pytest.mark.parametrize("arguments", MISTAKES)
def test_errors_are_json_where_json_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, [*arguments, "--json", "--log-format", "json", "--log-file", "log"])
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.exit_code != 0
    for text in (done.stderr, (tmp_path / "log").read_text()):
        entries = [json.loads(line) for line in text.splitlines()]
        assert entries[-1]["message"] == answer["error"]
        assert (entries[-1]["exit_code"], entries[-1]["level"]) == (done.exit_code, "error")


def test_nothing_stands_among_the_json_lines_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(log_format="json")
    with session.progress.stage("open") as stage:
        stage.advance()
    get_logger("hsfuse.x").warning("a word")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["a word"]


def test_details_of_windows_are_told_where_details_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verbosity, told in ((0, False), (1, True)):
        configure(verbosity=verbosity, log_file=tmp_path / f"log{verbosity}")
        with as_details():
            get_logger("hsfuse.x").info("a window")
            get_logger("hsfuse.x").warning("a warning")
        get_logger("hsfuse.x").info("the scene")
        shown = capsys.readouterr().err
        assert "a warning" in shown
        assert "the scene" in shown
        assert ("a window" in shown) is told
        assert "a window" in (tmp_path / f"log{verbosity}").read_text()
    configure()


SLOW = """
import sys, tempfile, time, types
import hsfuse.__main__ as process
def slow(*a, **k):
    with tempfile.TemporaryDirectory() as folder:
        print("ready", flush=True)
        {work}
# What a run itself needs is not loaded here.
sys.modules["hsfuse.workflows.run"] = types.SimpleNamespace(run_scene=slow)
process._COMMANDS_WITH_TORCH = frozenset()
sys.argv = ["hsfuse", "run", "a", "b", "-o", "c.tif"]
process.main()
"""


@contextlib.contextmanager
def _started(work: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that has come to what takes long; whatever a test finds, it has ended afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW.format(work=work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_signals_clean_up_and_say_how_to_go_on(tmp_path: Path, number: int, code: int, word: str) -> None:
    with _started("time.sleep(60)", tmp_path) as process:
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert word in said
    assert "the same command with --resume" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_signal_that_does_not_interrupt_the_main_threads_wait_ends_it_all_the_same(tmp_path: Path) -> None:
    """As one that comes just before the wait begins; here another thread receives it."""
    work = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); time.sleep(900)"
    with _started(work, tmp_path) as process:
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())


def test_a_signal_is_acknowledged_while_the_main_thread_computes(tmp_path: Path) -> None:
    """Python's handlers wait for the main thread; the first word does not, nor does an end that is asked for twice."""
    # A library's call that lets go of the interpreter's lock, and that no signal interrupts: one for its own lock.
    work = "import ctypes; c = ctypes.CDLL(None); m = ctypes.create_string_buffer(99); "
    work += "[c.pthread_mutex_lock(m) for _ in range(2)]"
    with _started(work, tmp_path) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping (SIGINT)" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_answer_to_a_signal_comes_before_the_end(tmp_path: Path, number: int) -> None:
    """Also where the main thread is quicker than the thread that answers."""
    late = "s = process.sys.modules['hsfuse.cli.signals']; say = s._say_that_it_stops; "
    late += "s._say_that_it_stops = lambda n: (time.sleep(0.2), say(n)); time.sleep(60)"
    with _started(late, tmp_path) as process:
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert said.startswith("stopping (")
    assert "--resume" in said.splitlines()[-1]


def test_ctrl_c_during_imports_ends_quietly() -> None:
    code = """
import builtins, os, signal, sys
real = builtins.__import__
def slow(name, *rest):
    if name.startswith("hsfuse.cli.app"):
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)
builtins.__import__ = slow
sys.argv = ["hsfuse", "run"]
from hsfuse.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr


def test_ignored_signals_stay_ignored() -> None:
    code = SLOW.format(work="import os, signal; os.kill(os.getpid(), signal.SIGHUP); raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 130


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ImportError('libtorch_cpu.so: failed to map segment from shared object')", "too little memory to load"),
        ('RuntimeError("can\'t start new thread")', "no further threads"),
        ("OSError(24, 'Too many open files')", "too few open files"),
    ],
)
def test_a_system_that_refuses_what_any_command_needs(error: str, words: str) -> None:
    code = f"""
import sys, hsfuse.__main__ as process
def refuse(arguments):
    raise {error}
process._prepare = refuse
sys.argv = ["hsfuse", "info", "x"]
process.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 6, done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


SET_UP = """
import os, signal, sys
import hsfuse.__main__ as process
{change}
sys.argv = ["hsfuse", "--version"]
process.main()
"""


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ("process._prepare = lambda _: exec('raise MemoryError')", 6, "ran out of memory"),
        ("import hsfuse.cli.app as a; a.app = lambda: exec('raise MemoryError')", 6, "ran out of memory"),
        ("import hsfuse.cli.app as a; a.app = lambda: os.kill(os.getpid(), signal.SIGTERM)", 143, "by SIGTERM"),
        ("import hsfuse.cli.app as a; a.app = lambda: os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted"),
    ],
)
def test_ends_before_and_after_a_command(change: str, code: int, word: str) -> None:
    """The parser of the command line has no memory, or a signal comes while modules are loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.format(change=change)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_without_memory_no_thread_is_waited_for() -> None:
    """One that found none may never end, inside the system's loader or OpenBLAS."""
    change = (
        "import atexit, threading, time; atexit.register(print, 'cleaned up'); import hsfuse.cli.app as a; "
        "threading.Thread(target=time.sleep, args=(900,)).start(); a.app = lambda: exec('raise MemoryError')"
    )
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.format(change=change)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 6, done.stderr
    assert "ran out of memory" in done.stderr
    assert done.stdout == "cleaned up\n"


def test_a_signal_while_the_process_leaves_has_nothing_to_make_safe() -> None:
    change = "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.format(change=change)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.startswith("hsfuse ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--no-such-option"], []])
def test_a_mistake_on_the_command_line_is_not_written_into_a_foreign_file(tmp_path: Path, arguments: list[str]) -> None:
    foreign = tmp_path / "scene.he5"
    foreign.write_bytes(b"samples")
    done = runner.invoke(app, ["coregister", "a.tif", *arguments, "--log-file", str(foreign)])
    assert done.exit_code == 2, done.output
    assert foreign.read_bytes() == b"samples"


def test_a_log_goes_into_a_pipe(tmp_path: Path) -> None:
    """As shells make for ``--log-file >(less)``: to look what is in it would be to wait for ever."""
    done = _shell(f"{COMMAND} coregister no.tif b.tif -o c.tif --log-file >(cat > {tmp_path}/log); sleep 0.2")
    assert "there is no such file" in (tmp_path / "log").read_text(), done.stderr


def test_numbers_that_could_not_be_told_are_null_in_results(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"scores": {"gain": float("nan"), "best": np.float32(1.5)}, "path": Path("a.tif"), "bands": [np.inf, 2]}
    Session(as_json=True).show(result, str)
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"scores": {"gain": None, "best": 1.5}, "path": "a.tif", "bands": [None, 2]}
