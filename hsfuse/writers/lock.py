"""Who may write an output: the lock in its journal's folder, which a run takes before any work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hsfuse.errors import OutputError
from hsfuse.lock_file import open_locked
from hsfuse.writers.storage import storage_errors

LOCK_NAME = "lock"
_claims: dict[Path, int] = {}
"""Open lock files of the outputs that this process has claimed, by the journal's folder."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the lock of a journal's folder during the body, so that a second run ends before it has worked in vain.

    The body's own journal shares it. A folder without anything but the lock is removed at the end.

    Parameters
    ----------
    folder
        ``<output>.part``, which no foreign files may lie in; made when missing.

    Raises
    ------
    OutputError
        Another run has it, or the disk refuses.
    """
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        try:
            handle = _lock(folder)
        except BaseException:
            with contextlib.suppress(OSError):  # Not empty where another run is at it.
                folder.rmdir()
            raise
    key = folder.resolve()
    _claims[key] = handle
    try:
        yield
    finally:
        # Where the product is in place already, the name may be claimed anew.
        if _claims.get(key) == handle:
            del _claims[key]
        # Runs also while an error is on its way up; a folder that stays behind must not hide it.
        with contextlib.suppress(OSError):
            if _is_lock_of(handle, folder) and [item.name for item in folder.iterdir()] == [LOCK_NAME]:
                (folder / LOCK_NAME).unlink()
                folder.rmdir()
        unlock(handle)


def lock_folder(folder: Path) -> int:
    """Take the lock of a journal's folder, or a share in this process's claim; return what :func:`unlock` takes.

    Raises
    ------
    OutputError
        Another run has it.
    """
    claim = _claims.get(folder.resolve())
    if claim is not None and _is_lock_of(claim, folder):
        return os.dup(claim)
    return _lock(folder)


def unlock(handle: int) -> None:
    """Give a lock, or a share in it, back."""
    with contextlib.suppress(OSError):
        os.close(handle)


def _lock(folder: Path) -> int:
    try:
        return open_locked(folder / LOCK_NAME)
    except BlockingIOError as error:
        raise OutputError(
            f"Another run is writing this output (it holds {folder}).",
            hint="Wait for it to end, or choose another output name.",
        ) from error


def _is_lock_of(handle: int, folder: Path) -> bool:
    """Whether an open lock file is still the one in the folder, which may have been removed and made anew."""
    try:
        return os.path.samestat(os.fstat(handle), (folder / LOCK_NAME).stat())
    except OSError:
        return False
