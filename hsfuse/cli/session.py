"""What all commands share: logging, progress, JSON, errors and exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hsfuse import process
from hsfuse.errors import DiskFullError, HsfuseError, MemoryBudgetError, OutputError
from hsfuse.log import configure, get_logger
from hsfuse.outputs import check_log_file
from hsfuse.progress import Progress, default_progress

_log = get_logger(__name__)

_PANEL = "Output on the terminal"
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="details, and a traceback on errors", rich_help_panel=_PANEL)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="warnings and errors only", rich_help_panel=_PANEL)]
AsJson = Annotated[
    bool, typer.Option("--json", help="print the result as one JSON line on stdout", rich_help_panel=_PANEL)
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="no progress display", rich_help_panel=_PANEL)]
LogFormat = Annotated[
    Literal["text", "json"] | None, typer.Option("--log-format", help="text or json lines", rich_help_panel=_PANEL)
]
LogFile = Annotated[Path | None, typer.Option("--log-file", help="write the log there too", rich_help_panel=_PANEL)]


@dataclass
class Session:
    """How this invocation talks to its user."""

    verbose: bool = False
    quiet: bool = False
    as_json: bool = False
    no_progress: bool = False
    log_format: Literal["text", "json"] | None = None
    log_file: Path | None = None
    interrupted: str = ""
    _progress: Progress | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        verbosity = -1 if self.quiet else (1 if self.verbose else 0)
        try:
            if self.log_file is not None:
                check_log_file(self.log_file)
            configure(verbosity=verbosity, log_format=self.log_format or "text", log_file=self.log_file)
        except OutputError as error:
            _fail(error, as_json=self.as_json)
        except OSError as error:
            _fail(
                OutputError(f"The log file {self.log_file} cannot be written: {error.strerror}."), as_json=self.as_json
            )
        for name, value in process.dropped_variables.items():
            _log.warning("Ignoring %s=%s, which belongs to another GDAL or PROJ.", name, value)

    @property
    def progress(self) -> Progress:
        """Progress display for this session."""
        if self._progress is None:
            self._progress = default_progress(quiet=self.quiet, enabled=not self.no_progress)
        return self._progress

    def show(self, result: dict[str, Any], text: Callable[[], str]) -> None:
        """Print a result on stdout: JSON when asked for, else text (unless quiet)."""
        if self.as_json:
            typer.echo(json.dumps(result, default=_plain, allow_nan=False))
        elif not self.quiet:
            typer.echo(text())

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn every exception into a sentence, a hint and an exit code."""
        try:
            yield
        except HsfuseError as error:
            self._trace()
            _fail(error, as_json=self.as_json)
        except MemoryError:
            self._trace()
            _fail(
                MemoryBudgetError("The computer ran out of memory.", hint="Use --max-memory or a smaller --tile."),
                as_json=self.as_json,
            )
        except OSError as error:
            self._trace()
            if error.errno == errno.ENOSPC:
                _fail(
                    DiskFullError("The disk is full.", hint="Free some space and use --resume."), as_json=self.as_json
                )
            _fail(HsfuseError(f"{error}", hint="Use --verbose for details."), as_json=self.as_json)
        except KeyboardInterrupt:
            typer.echo(f"interrupted{self.interrupted}", err=True)
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            self._trace()
            summary = f"{type(error).__name__}: {error}"
            hint = "This is a bug in hsfuse; run again with --verbose and report the traceback."
            _fail(HsfuseError(f"Unexpected error: {summary}", hint=hint), as_json=self.as_json)

    def _trace(self) -> None:
        if self.verbose:
            traceback.print_exc(file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _fail(error: HsfuseError, *, as_json: bool) -> None:
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": error.message, "hint": error.hint, "exit_code": error.exit_code}))
    raise typer.Exit(error.exit_code)
