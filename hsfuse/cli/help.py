"""Help in groups: what matters first, everything with ``--help-all``; whole words at any width."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from hsfuse.cli.streams import deliver

if TYPE_CHECKING:
    from rich.console import Console

MATTERS = "Options that matter"
"""Panel of the options that ``--help`` shows; the others need ``--help-all``."""
_ARGUMENTS, _OPTIONS = "Arguments", "Options"
_WIDEST, _NARROWEST = 110, 60
_NAMES_SHARE = 0.42
_ALL = "--help-all"
_VALUE_NAMES = {
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "float,float": "NUMBER NUMBER",
    "str": "TEXT",
    "list[str]": "TEXT",
    "list[path]": "PATH",
}


class HelpCommand(TyperCommand):
    """A command whose help stands in panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: the options that matter where the command says which, else all."""
        formatter.write(help_text(self, ctx, everything=False))


def show_everything(context: typer.Context, wanted: bool) -> None:
    """Print all options of a command and leave; the callback of ``--help-all``."""
    if wanted:
        deliver(help_text(context.command, context, everything=True), end="")
        raise typer.Exit


def help_text(command: Any, context: Any, *, everything: bool) -> str:
    """Lay out the help of a command.

    Parameters
    ----------
    command, context
        The command and its context.
    everything
        Whether options that do not matter to most are shown as well.
    """
    panels: dict[str, list[Any]] = {_ARGUMENTS: [], _OPTIONS: [], MATTERS: []}
    for parameter in command.get_params(context):
        if not getattr(parameter, "hidden", False):
            default = _ARGUMENTS if parameter.param_type_name == "argument" else _OPTIONS
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(parameter)
    brief = bool(panels[MATTERS]) and not everything
    shown = {name: found for name, found in panels.items() if not brief or name in (_ARGUMENTS, _OPTIONS, MATTERS)}
    left_out = sum(len(found) for name, found in panels.items() if name not in shown)
    console = _console()
    console.print(command.get_usage(context), style="bold", markup=False)
    console.print(f"\n{_paragraph(command.help or '')}", markup=False)
    for name, found in shown.items():
        if found:
            console.print(_panel(name, found, context, console))
    if left_out:
        console.print(f"{left_out} more options: {context.command_path} {_ALL}", markup=False)
    if command.epilog:
        console.print(f"\n{command.epilog}", style="dim", markup=False)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _console() -> Console:
    from rich.console import Console

    width = min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST)
    coloured = sys.stdout is not None and sys.stdout.isatty()
    return Console(file=io.StringIO(), width=width, force_terminal=coloured, no_color=not coloured, highlight=False)


def _panel(name: str, parameters: Iterable[Any], context: Any, console: Console) -> Any:
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    table = Table.grid(padding=(0, 2, 0, 0))
    rows = [(_names(parameter, context), _about(parameter, context)) for parameter in parameters]
    widest = max(len(names) for names, _ in rows)
    table.add_column(width=min(widest, int(_NAMES_SHARE * console.width)))
    table.add_column(overflow="fold")
    for names, about in rows:
        table.add_row(Text(names, style="bold"), Text(about))
    return Panel(table, title=name, title_align="left", box=box.ROUNDED if unicode else box.ASCII)


def _names(parameter: Any, context: Any) -> str:
    """``-o, --output PATH`` or ``--report / --no-report``; an argument's name."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or f"{parameter.name}{'' if parameter.nargs == 1 else '...'}").upper()
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        return f"{names} / {', '.join(parameter.secondary_opts)}"
    if parameter.is_flag:
        return names
    return f"{names} {_value_name(parameter, context)}"


def _kind(parameter: Any, context: Any) -> str:
    """Typer's word for what an option takes: ``int``, or its choices ``a|b``."""
    return str(parameter.display_type(context) or "").strip("<>")


def _value_name(parameter: Any, context: Any) -> str:
    kind = _kind(parameter, context)
    return "WORD" if "|" in kind else _VALUE_NAMES.get(kind.lower(), kind.upper())


def _about(parameter: Any, context: Any) -> str:
    """The help text with the default; choices that it does not name stand behind it."""
    text = parameter.help or ""
    # Options that are made of a configuration name their defaults themselves.
    if (
        parameter.default not in (None, "")
        and isinstance(parameter.default, int | float | str)
        and not parameter.is_flag
    ):
        text += f" [default: {parameter.default}]"
    kind = _kind(parameter, context)
    choices = kind.split("|") if "|" in kind else []
    if not all(each in text for each in choices):
        text += f" ({', '.join(choices)})"
    return f"{text} (required)" if parameter.required and parameter.param_type_name == "option" else text


def _paragraph(text: str) -> str:
    return " ".join(text.split())
