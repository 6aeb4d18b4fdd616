"""One scene, one worker: a lock that is gone when its process is, and that says what its process is doing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsfuse.errors import OutputError
from hsfuse.lock_file import is_locked, open_locked

HIDDEN = ".batch"
"""Folder inside the batch's one for what nobody needs to look at."""
_NOTE_S = 1.0


def lock_path(folder: Path, scene: str) -> Path:
    """File that locks a scene."""
    return folder / HIDDEN / "locks" / (scene.strip("/").replace("/", "__") + ".lock")


class SceneLock:
    """The right to work on a scene; a context manager.

    Parameters
    ----------
    folder
        The batch's folder.
    scene
        Name of the scene.

    Raises
    ------
    BlockingIOError
        Another process works on the scene.
    OutputError
        The folder is not writable.
    """

    def __init__(self, folder: Path, scene: str) -> None:
        path = lock_path(folder, scene)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open_locked(path)
        except BlockingIOError:
            raise
        except OSError as error:
            raise OutputError(f"The folder {folder} is not writable ({error.strerror}).") from error
        self._noted = 0.0
        self.note(stage="start", fraction=0.0)

    def note(self, **facts: Any) -> None:
        """Write down what is being done, for others to read; at most once a second."""
        now = time.monotonic()
        if now - self._noted < _NOTE_S:
            return
        self._noted = now
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), **facts})
        with contextlib.suppress(OSError):  # What is told is never worth a failure.
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)

    def close(self) -> None:
        """Give the scene free."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_note(folder: Path, scene: str) -> dict[str, Any] | None:
    """What the process that holds a scene's lock says; None where nobody holds it."""
    try:
        handle = os.open(lock_path(folder, scene), os.O_RDWR)
    except OSError:
        return None
    try:
        if not is_locked(handle):
            return None
        note = json.loads(os.pread(handle, 4096, 0))
        return note if isinstance(note, dict) else {}
    except ValueError:
        return {}
    finally:
        os.close(handle)
