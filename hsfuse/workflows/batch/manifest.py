"""A list of scenes in a file: CSV with a header, or one JSON object a line.

Columns are ``hsi``, ``s2``, ``output`` and any setting of ``hsfuse run`` (its flag with underscores or dashes).
Relative inputs are looked for in the manifest's folder, relative outputs lie in the batch's folder.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, UsageError
from hsfuse.small_text import read_small_text
from hsfuse.workflows.batch.settings import PER_BATCH

SUFFIXES = (".csv", ".jsonl", ".ndjson")
_LARGEST_BYTES = 64 << 20
_OWN = ("hsi", "s2", "output")
_SETTINGS = tuple(sorted(set(RunConfig.model_fields) - PER_BATCH))
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class ManifestScene:
    """A line of a manifest.

    Attributes
    ----------
    line
        Its number, from 1.
    hsi
        Hyperspectral product.
    msi
        Sentinel-2 products; empty: to be found in the archive.
    output
        As written; empty: named after the product.
    settings
        Settings of this scene only.
    """

    line: int
    hsi: Path
    msi: tuple[Path, ...] = ()
    output: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def is_manifest(path: str | Path) -> bool:
    """Whether a path names a manifest."""
    return Path(path).suffix.lower() in SUFFIXES


def read_manifest(path: Path) -> list[ManifestScene]:
    """Read a manifest.

    Raises
    ------
    InputError
        The file cannot be read, or an input that it names does not exist.
    UsageError
        A column or value is wrong, or there are no scenes.
    """
    try:
        text = read_small_text(path, "manifest", largest=_LARGEST_BYTES)
    except OSError as error:
        raise InputError(f"The manifest {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The manifest {path} is not UTF-8 text.") from error
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    scenes = [_scene(path, line, values) for line, values in rows]
    if not scenes:
        raise UsageError(
            f"The manifest {path} lists no scenes.", hint="Its first line names the columns: hsi,s2,output."
        )
    return scenes


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(text.splitlines())
    columns = [name.strip().replace("-", "_") for name in next(reader, [])]
    _check_names(path, 1, columns)
    if "hsi" not in columns:
        raise UsageError(
            f"The manifest {path} has no column hsi.", hint="Its first line names the columns, such as hsi,s2,output."
        )
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise UsageError(f"The manifest {path} has the column {min(twice)} twice.")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise UsageError(
                f"Line {reader.line_num} of {path} has {len(cells)} fields, the header {len(columns)}.",
                hint='Put fields that hold commas in double quotes: "9.5,44.8,9.9,45.1".',
            )
        # An empty field says nothing: the setting of the command line counts.
        values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if cell.strip()}
        yield reader.line_num, {name: _typed(name, value) for name, value in values.items()}


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"Line {number} of {path} is not JSON: {error.msg}.") from error
        if not isinstance(values, dict):
            raise UsageError(f"Line {number} of {path} is no JSON object.", hint='Write {"hsi": ..., "s2": ...}.')
        renamed = {str(key).replace("-", "_"): value for key, value in values.items() if value is not None}
        _check_names(path, number, list(renamed))
        yield number, renamed


def _check_names(path: Path, line: int, names: list[str]) -> None:
    for name in names:
        if name in _OWN or name in _SETTINGS:
            continue
        if name in PER_BATCH:
            raise UsageError(
                f"Line {line} of {path}: '{name}' cannot be set for one scene.",
                hint="Use the option of `hsfuse batch`; overwriting and resuming are decided by --redo.",
            )
        near = difflib.get_close_matches(name, [*_OWN, *_SETTINGS], 1)
        raise UsageError(
            f"Line {line} of {path}: '{name}' is no column of a manifest.",
            hint=(f"Did you mean {near[0]}? " if near else "")
            + "Columns are hsi, s2, output and the settings of `hsfuse run`.",
        )


def _typed(name: str, text: str) -> Any:
    """Turn the text of a CSV field into what the setting expects; pydantic does the rest."""
    field_info = RunConfig.model_fields.get(name)
    if field_info is not None and field_info.annotation is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
    return text


def _scene(path: Path, line: int, values: dict[str, Any]) -> ManifestScene:
    settings = {name: value for name, value in values.items() if name not in _OWN}
    hsi = values.get("hsi")
    if not isinstance(hsi, str) or not hsi:
        raise UsageError(f"Line {line} of {path} names no hyperspectral product (hsi).")
    s2 = values.get("s2", [])
    listed = [part.strip() for part in s2.split(";")] if isinstance(s2, str) else s2
    output = values.get("output", "")
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed) or not isinstance(output, str):
        raise UsageError(f"Line {line} of {path}: hsi and output are texts, s2 is a text or a list of texts.")
    try:
        RunConfig.resolve(None, **settings)
    except UsageError as error:
        raise UsageError(f"Line {line} of {path}: {error.message}", hint=error.hint) from error
    folder = path.absolute().parent
    scene = ManifestScene(line, folder / hsi, tuple(folder / item for item in listed if item), output, settings)
    for item in (scene.hsi, *scene.msi):
        if not item.exists():
            raise InputError(
                f"Line {line} of {path}: {item} does not exist.", hint="Relative paths start at the manifest's folder."
            )
    return scene
