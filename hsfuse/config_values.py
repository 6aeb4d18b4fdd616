"""Values of settings as people write them: sizes, days, numbers that stand where a text may."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

from hsfuse.errors import UsageError
from hsfuse.small_text import read_small_text


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
        return tomllib.loads(read_small_text(file, "configuration"))
    except OSError as error:
        raise UsageError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UsageError(f"The configuration file {file} is nested too deeply.") from error
    except ValueError as error:  # also of numbers with thousands of digits
        raise UsageError(f"The configuration file {file} is not valid TOML: {error}.") from error


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
