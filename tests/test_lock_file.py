"""Lock files: one holder, whom others see, and nobody is sent away by a look."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from hsfuse.lock_file import is_locked, locked, open_locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_has_it_and_others_see_it(path: Path) -> None:
    first = open_locked(path)
    other = os.open(path, os.O_RDWR)
    assert is_locked(other)
    with pytest.raises(BlockingIOError):
        open_locked(path)
    os.close(first)
    assert not is_locked(other)
    os.close(open_locked(path))
    os.close(other)


def test_a_look_sends_nobody_away(path: Path) -> None:
    path.touch()
    looking = os.open(path, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, (looking,))
    timer.start()
    os.close(open_locked(path))
    timer.join()


def test_file_systems_without_locks_are_taken_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    handle = open_locked(path)
    assert not is_locked(handle)
    with locked(handle):
        pass
    os.close(handle)
