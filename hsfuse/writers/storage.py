"""What disks do: probes before any work, and their failures as errors that name the output."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsfuse.errors import DiskFullError, OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_BELOW = 2**20


def reached(moment: str) -> None:
    """Mark a named moment of writing. Does nothing: tests cut the process off there."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (created and renamed files) to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    if path.is_dir():
        for item in path.iterdir():
            sync_tree(item)
        sync_folder(path)
        return
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def write_durably(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Delete a file, or a folder that is empty; what is not there, and a folder with files in it, is no error."""
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size


def size_text(count: int) -> str:
    """A number of bytes for people: ``2.6 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def probe(folder: Path) -> None:
    """Make sure that files can be made in a folder.

    Raises
    ------
    OutputError
        They cannot.
    """
    # Asking for permission bits is not enough: root, read-only mounts and quotas answer differently when tried.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {folder} is not writable ({error.strerror or error}).",
            hint="Check its permissions and free space, or choose another folder.",
        ) from error


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def is_gdal_error(error: BaseException) -> bool:
    """Whether rasterio raised an error; those that it passes on from GDAL have no public base class."""
    return any(kind.__module__.split(".")[0] == "rasterio" for kind in type(error).__mro__)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn failures of storage into an OutputError that names the output.

    Covers Python's own writes and GDAL's, whose errors carry no error number.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or is_gdal_error(error)):
            raise
        causes = _causes(error)
        full = any(getattr(cause, "errno", None) in _FULL for cause in causes)
        # GDAL reports a refused write as text only, and sometimes without its reason.
        full = full or any(text in str(cause) for cause in causes for text in ("No space left", "File too large"))
        if full or shutil.disk_usage(path.parent).free < _FULL_BELOW:
            raise DiskFullError(
                f"The disk is full: {path} could not be written.",
                hint="Free some space, then run the same command with --resume.",
            ) from error
        reason = (getattr(error, "strerror", None) or str(causes[-1])).rstrip(".")
        raise OutputError(
            f"The output {path} could not be written: {reason}.",
            hint="Check the disk's space and quota, then run the same command with --resume.",
        ) from error
