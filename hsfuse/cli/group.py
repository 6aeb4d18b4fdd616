"""The command group: mistakes on the command line are reported as all other errors are."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from hsfuse.cli.session import report
from hsfuse.errors import HsfuseError, OutputError, UsageError, did_you_mean, explained
from hsfuse.log import configure
from hsfuse.outputs import check_log_file

_SPELLINGS = {"--dry-run=full": "--dry-run-full", "--dry-run=quick": "--dry-run"}
"""Flags with an optional value, which the parser does not know."""

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class HsfuseGroup(TyperGroup):
    """Commands whose usage errors are a sentence, a hint and exit code 2, in JSON and in the log file too."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse the arguments and run the command; leaves with its exit code in ``standalone_mode``."""
        given = [_SPELLINGS.get(text, text) for text in (sys.argv[1:] if args is None else args)]

        def run(arguments: list[str]) -> Any:
            return super(HsfuseGroup, self).main(
                arguments, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args,
                **extra,
            )  # fmt: skip

        return sys.exit(_exit_code(run, given)) if standalone_mode else run(given)


def _exit_code(run: Callable[[list[str]], Any], given: list[str]) -> int:
    try:
        if not given:
            run(["--help"])
            return 2
        code = run(given)
    except SystemExit as leaving:
        # A reader of standard output that has gone away wants no more.
        if isinstance(leaving.__context__, BrokenPipeError):
            return 0
        raise
    except typer.Abort:
        return 130
    except OSError as error:
        # Commands explain their own errors; what is left is a help text that nobody could be shown, or a system that
        # refuses what any program needs.
        if error.errno in _SHORT:
            return reported(explained(error), given)
        return reported(OutputError(f"Standard output takes no more: {error.strerror or error}."), given)
    except Exception as error:
        return reported(_usage_error(error) or explained(error), given)
    return code if isinstance(code, int) else 0


def _usage_error(error: Exception) -> HsfuseError | None:
    """What the parser of the command line complains about; None where it is no complaint of the parser."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "hsfuse"
    see = f"See `{path} --help`."
    option = getattr(error, "option_name", None)
    if option is not None and context is not None and hasattr(error, "possibilities"):
        flags = [flag for parameter in context.command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        return UsageError(f"There is no option '{option}'.", hint=did_you_mean(option, flags) + see)
    commands = getattr(getattr(context, "command", None), "commands", None)
    wrong = re.search(r"No such command '([^']+)'", str(message()))
    if commands and wrong:
        return UsageError(f"There is no command '{wrong[1]}'.", hint=did_you_mean(wrong[1], commands) + see)
    return UsageError(f"{str(message()).rstrip('.')}.", hint=see)


def reported(error: HsfuseError, given: Sequence[str]) -> int:
    """Report an error that was met before a command could say how it talks to its user; return its exit code."""
    file = _value(given, "--log-file")
    as_json = _value(given, "--log-format") == "json"
    try:
        if file:
            check_log_file(Path(file))
        configure(log_format="json" if as_json else "text", log_file=Path(file) if file else None)
    except (OutputError, OSError, ValueError):
        configure(log_format="json" if as_json else "text")
    report(error, as_json="--json" in given)
    return error.exit_code


def _value(given: Sequence[str], option: str) -> str:
    for index, text in enumerate(given):
        if text == option and index + 1 < len(given):
            return given[index + 1]
        if text.startswith(f"{option}="):
            return text.partition("=")[2]
    return ""
