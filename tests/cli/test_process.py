"""The process around a command: how it starts, and that it ends as it should although it does not clean up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hsfuse.process import undecodable_messages_to_log
from hsfuse.readers.decoder import gdal_warnings


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_exit_codes_and_output_survive_the_quick_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hsfuse", "coregister", str(tmp_path / "no.tif"), "b.tif", "-o", "c.tif", "--json"],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 3
    assert "there is no such file" in done.stderr


def test_what_was_registered_for_the_exit_is_run_and_threads_are_waited_for() -> None:
    code = """
import atexit, sys, threading, time
from hsfuse.__main__ import main
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(2), print("thread"))).start()
main()
"""
    done = _python(code, "--version")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("hsfuse ") for line in lines)
    assert "thread" in lines
    assert lines[-1] == "registered"


def test_a_closed_pipe_is_no_crash() -> None:
    done = subprocess.run(
        f"{sys.executable} -m hsfuse --help | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr


def test_setting_the_command_line_up_asks_the_loader_for_nothing_more() -> None:
    """Else it would wait until torch's libraries are loaded."""
    code = """
import importlib.machinery, sys
from hsfuse.__main__ import ask_loader_first
ask_loader_first()
before = set(sys.modules)
import hsfuse.cli.app
suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
files = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
print([name for name, file in files.items() if file.endswith(suffixes)])
"""
    assert _python(code).stdout.strip() == "[]"


def test_messages_of_gdal_that_are_not_utf8_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """rasterio decodes them where nothing can be caught; Python would print "Exception ignored" and they were lost."""
    passed_on: list[object] = []
    hook = undecodable_messages_to_log(passed_on.append)
    error = UnicodeDecodeError("utf-8", b"tag \xfcx is cut off", 4, 5, "invalid start byte")
    with gdal_warnings() as heard, caplog.at_level("WARNING", "rasterio"):
        hook(SimpleNamespace(exc_value=error, object="rasterio._env.log_error"))
    assert heard == ["tag \\xfcx is cut off"]
    other = SimpleNamespace(exc_value=error, object="somebody.else")
    hook(other)
    assert passed_on == [other]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to the limit")
def test_threads_without_memory_for_their_first_line_are_refused_as_others_are() -> None:
    """CPython's ``Thread.start`` would wait for that line for ever."""
    code = """
import resource, threading
from pathlib import Path
from hsfuse.thread_start import raise_where_threads_cannot_start
raise_where_threads_cannot_start()
stack, page = 1 << 20, 4096
threading.stack_size(stack)
words = []
for room in range(stack - 4 * page, stack + 16 * page, page):
    thread = threading.Thread(target=int)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * page
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try:
        thread.start()
    except RuntimeError as error:
        words.append(str(error))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert not threading._limbo
print(len(words), any("no memory" in text for text in words), all("start new thread" in text for text in words))
"""
    done = _python(code)
    assert done.stdout.split()[1:] == ["True", "True"], done.stderr
    assert int(done.stdout.split()[0]) < 20
    assert "Traceback" not in done.stderr
