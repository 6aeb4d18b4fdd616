"""Values of settings as people write them: sizes, days, numbers that stand where a text may."""

from __future__ import annotations

import errno
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

from hsfuse.errors import UsageError

_LARGEST_FILE = 2**20
"""Bytes; a configuration has a few kilobytes."""


def number_as_text(value: Any) -> Any:
    """Let a TOML file say ``bands = 100`` where the flag is text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_toml(file: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    UsageError
        It is missing, not readable, or not TOML.
    """
    try:
        return tomllib.loads(_text_of(file))
    except OSError as error:
        raise UsageError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UsageError(f"The configuration file {file} is nested too deeply.") from error
    except ValueError as error:  # also of numbers with thousands of digits
        raise UsageError(f"The configuration file {file} is not valid TOML: {error}.") from error


def _text_of(file: Path) -> str:
    """The text of a file that is no pipe and not endless."""
    if not file.is_file() and file.exists() and not file.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file")
    if file.is_file() and file.stat().st_size > _LARGEST_FILE:
        raise OSError(errno.EFBIG, "it is larger than any configuration")
    return file.read_text(encoding="utf-8")


def parse_days(text: str) -> tuple[date, ...]:
    """Read days such as ``2024-06-23`` or ``2024-06-23,2024-06-28``.

    Raises
    ------
    ValueError
        One is no day.
    """
    try:
        return tuple(date.fromisoformat(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError(f"'{text}' names no days such as 2024-06-23, separated by commas") from None
