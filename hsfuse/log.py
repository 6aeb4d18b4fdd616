"""Logging set-up: everything goes to stderr, stdout carries results only."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

LOGGER_NAME = "hsfuse"
_DETAIL_LEVEL = ContextVar("detail_level", default=logging.NOTSET)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module (pass ``__name__``)."""
    return logging.getLogger(name if name.startswith(LOGGER_NAME) else f"{LOGGER_NAME}.{name}")


@contextlib.contextmanager
def as_details(level: int = logging.INFO) -> Iterator[None]:
    """What is told inside up to a level, by this thread, is a detail: of a window or a trial, not of a scene."""
    before = _DETAIL_LEVEL.set(level)
    try:
        yield
    finally:
        _DETAIL_LEVEL.reset(before)


class _WithoutDetails(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > _DETAIL_LEVEL.get()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message; hint and exit code of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name in _FACTS if (value := getattr(record, name, None)) not in (None, "")}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """A line for people; an error with its hint.

    Parameters
    ----------
    dated
        Whether errors that end a command carry the time as all else does: in files, but not on a terminal.
    """

    def __init__(self, *, dated: bool) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
        self._dated = dated

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        if not hasattr(record, "exit_code"):
            return super().format(record)
        hint = getattr(record, "hint", "")
        if self._dated:
            text = super().format(record).partition("\n")
            return "".join([f"{text[0]} (exit code {record.exit_code})", f"\nhint: {hint}" if hint else "", *text[1:]])
        lines = [self.formatException(record.exc_info)] if record.exc_info else []
        lines.append(f"error: {record.getMessage()}" if hasattr(record, "hint") else record.getMessage())
        return "\n".join([*lines, *([f"hint: {hint}"] if hint else [])])


_FACTS = ("hint", "exit_code")


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is now, not to what it was: notebooks and test runners exchange it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The present standard error."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless there is no standard error."""
        if sys.stderr is not None:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Go on where standard error is closed or on a full disk: there is nobody to be told."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


class _LogFileHandler(logging.FileHandler):
    """Writes to a file; when that takes no more, says so once and goes on without."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Give the file up."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError | ValueError):
            super().handleError(record)
            return
        root = logging.getLogger(LOGGER_NAME)
        root.removeHandler(self)
        with contextlib.suppress(OSError, ValueError):
            self.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        root.warning("The log file %s takes no more (%s); going on without it.", self.baseFilename, why)


def configure(
    *, verbosity: int = 0, log_format: Literal["text", "json"] = "text", log_file: Path | None = None
) -> None:
    """Send hsfuse's log to stderr, and to a file when asked.

    Parameters
    ----------
    verbosity
        Below 0: warnings and errors only; 0: one line per stage; above 0: details.
    log_format
        ``text`` for people, ``json`` for machines (one object a line).
    log_file
        Also write the log there, with details whatever ``verbosity`` says.
    """
    root = logging.getLogger(LOGGER_NAME)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    level = {-1: logging.WARNING, 0: logging.INFO}.get(max(-1, min(verbosity, 1)), logging.DEBUG)
    as_json = log_format == "json"
    stream = _StderrHandler()
    stream.setLevel(level)
    if level > logging.DEBUG:
        stream.addFilter(_WithoutDetails())
    stream.setFormatter(JsonFormatter() if as_json else TextFormatter(dated=False))
    root.addHandler(stream)
    if log_file is not None:
        # Names of files may hold bytes that are no text.
        to_file = _LogFileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        to_file.setLevel(logging.DEBUG)
        to_file.setFormatter(JsonFormatter() if as_json else TextFormatter(dated=True))
        root.addHandler(to_file)
    root.setLevel(logging.DEBUG)
    root.propagate = False
