"""Text files that a user names: regular files of a bounded size, for pipes wait and devices never end."""

from __future__ import annotations

import errno
from pathlib import Path

LARGEST_BYTES = 1 << 20
"""Lists and settings have some kilobytes."""


def read_small_text(path: Path, what: str, *, largest: int = LARGEST_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, for the message of one that is too large.
    largest
        Bytes.

    Raises
    ------
    OSError
        It cannot be read, is a pipe or a device, or is larger.
    UnicodeDecodeError
        It is not UTF-8.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file")
    with path.open("rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than any {what}")
    return content.decode("utf-8-sig")
