"""What all commands share: logging, progress, JSON, errors and exit codes."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from hsfuse import process
from hsfuse.cli.signals import Stopped, tell_also
from hsfuse.cli.streams import deliver
from hsfuse.errors import HsfuseError, OutputError, explained
from hsfuse.log import configure, get_logger
from hsfuse.outputs import check_log_file
from hsfuse.progress import Progress, close, default_progress, open_display

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
    Literal["text", "json"] | None,
    typer.Option("--log-format", help="text, or json lines without progress", rich_help_panel=_PANEL),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with the same names as the flags")]
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
        except (OutputError, OSError, ValueError) as error:
            configure(verbosity=verbosity, log_format=self.log_format or "text")
            why = error.strerror if isinstance(error, OSError) else str(error)
            written = OutputError(f"The log file {self.log_file} cannot be written: {why}.")
            self._fail(error if isinstance(error, OutputError) else written)
        for name, value in process.dropped_variables.items():
            _log.warning("Ignoring %s=%s, which belongs to another GDAL or PROJ.", name, value)

    @property
    def progress(self) -> Progress:
        """Progress display for this session."""
        if self._progress is None:
            # Who reads the log as JSON lines gets nothing else among them.
            shown = not self.no_progress and self.log_format != "json"
            self._progress = default_progress(quiet=self.quiet, enabled=shown)
            # Something is seen while libraries are loaded and the inputs are looked at.
            open_display(self._progress)
            tell_also(self._progress)
        return self._progress

    def show(self, result: dict[str, Any], text: Callable[[], str]) -> None:
        """Print a result on stdout: JSON when asked for, else text (unless quiet).

        Raises
        ------
        OutputError
            Standard output takes no more, for instance because a disk is full.
        """
        close(self._progress)
        if self.as_json:
            # Numbers that could not be told are null: a run that has written its cube does not fail by one of them.
            from hsfuse.qa.plain import to_plain

            deliver(json.dumps(to_plain(result), allow_nan=False))
        elif not self.quiet:
            deliver(text())

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn every exception into a sentence, a hint and an exit code."""
        try:
            try:
                yield
            finally:
                close(self._progress)
        except KeyboardInterrupt:
            self._stopped("interrupted", 130)
        except Stopped as stopped:
            self._stopped(f"stopped by {stopped}", stopped.exit_code)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            self._fail(explained(error), error)

    def _stopped(self, how: str, code: int) -> NoReturn:
        _log.log(_level_of(code), "%s%s", how, self.interrupted, extra={"exit_code": code})
        raise typer.Exit(code) from None

    def _fail(self, error: HsfuseError, cause: BaseException | None = None) -> NoReturn:
        report(error, as_json=self.as_json, trace=cause if self.verbose else None)
        raise typer.Exit(error.exit_code)


def report(error: HsfuseError, *, as_json: bool, trace: BaseException | None = None) -> None:
    """Say what went wrong on standard error and in the log file; as JSON on standard output where that is wanted."""
    _log.error(
        "%s", error.message, extra={"hint": error.hint, "exit_code": error.exit_code},
        exc_info=None if trace is None else (type(trace), trace, trace.__traceback__),
    )  # fmt: skip
    if as_json:
        with contextlib.suppress(OutputError):
            deliver(json.dumps({"error": error.message, "hint": error.hint, "exit_code": error.exit_code}))


def _level_of(code: int) -> int:
    return logging.WARNING if code == 130 else logging.ERROR
