"""A configuration file written from the configuration class."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from hsfuse.config import CoregisterConfig, RunConfig
from hsfuse.errors import OutputError

_HEAD = """\
# Settings of `hsfuse run --config FILE`. Names are those of the flags, with underscores.
# Every setting is shown with its default; remove the "#" to change one. Flags win over this file.
"""


def config_toml() -> str:
    """Return every setting as a commented-out TOML line with its meaning."""
    lines = [_HEAD]
    own = [name for name in RunConfig.model_fields if name not in CoregisterConfig.model_fields]
    for title, names in (("Run", own), ("Co-registration", list(CoregisterConfig.model_fields))):
        lines.append(f"# --- {title} ---")
        for name in names:
            field = RunConfig.model_fields[name]
            lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 100)]
            value = field.default
            shown = '""   # not set' if value is None else json.dumps(value)
            lines += [f"# {name} = {shown}", ""]
    return "\n".join(lines)


def write_config(path: Path) -> None:
    """Write :func:`config_toml` to a new file.

    Raises
    ------
    OutputError
        The file exists or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(config_toml())
    except FileExistsError:
        raise OutputError(f"{path} exists already.", hint="Choose another name.") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
