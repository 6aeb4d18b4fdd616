"""Results as strict JSON: NaN and infinities become null, arrays lists, dates and paths text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hsfuse.errors import OutputError
from hsfuse.outputs import replace_file


class HasJson(Protocol):
    """What knows its own plain values."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        ...


def write_json(path: Path, data: HasJson | Mapping[str, Any]) -> Path:
    """Write numbers as strict JSON, under a temporary name first.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    content = data if isinstance(data, Mapping) else data.to_json()
    text = json.dumps(to_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        replace_file(path, text.encode("utf-8"))
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", hint="Check the folder and the disk."
        ) from error
    return path


def to_plain(value: object) -> Any:
    """Turn numbers, arrays, dates, paths, dataclasses and containers into what strict JSON can hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(entry) for entry in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if hasattr(value, "to_json"):
        return to_plain(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    return str(value)
