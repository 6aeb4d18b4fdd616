"""Flags made from a configuration class, so that flag, TOML key, help and default cannot drift apart."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hsfuse.cli.help import MATTERS, show_everything

_HELP_ALL = "help_all"


def flag_type(annotation: Any) -> Any:
    """Type that Typer can parse for a field's annotation; unions of a number and a word become text."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [a for a in get_args(annotation) if a is not type(None)]
        if len(members) == 1:
            return flag_type(members[0])
        return str
    if get_origin(annotation) is Literal:
        return annotation
    return annotation if annotation in (str, int, float, bool, Path) else str


def _default_text(field: FieldInfo) -> str | None:
    if field.default is None or field.default == "" or isinstance(field.default, bool):
        return None
    return str(field.default)


def _option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = flag_type(field.annotation)
    negatable = kind is bool and field.default is True
    declaration = f"{flag}/--no-{flag[2:]}" if negatable else flag
    help_text = (field.description or "").strip()
    default = _default_text(field)
    if default is not None:
        help_text += f" [default: {default}]"
    extra = field.json_schema_extra
    others = extra.get("flags") if isinstance(extra, dict) else None
    flags = [str(other) for other in others] if isinstance(others, list) else []
    info = typer.Option(declaration, *flags, help=help_text, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _help_all() -> inspect.Parameter:
    info = typer.Option("--help-all", callback=show_everything, is_eager=True, help="show all options and exit")
    return inspect.Parameter(
        _HELP_ALL, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, info]
    )  # fmt: skip


def with_config(
    model: type[BaseModel],
    *,
    panels: dict[str, str] | None = None,
    without: frozenset[str] = frozenset(),
    matter: Sequence[str] = (),
) -> Callable[[Any], Any]:
    """Decorator: replace the function's ``settings`` argument by one flag per field of ``model``, some left out.

    The decorated function receives ``settings``: a dictionary of the flags that the user gave. ``--help`` shows those
    that ``matter``, in this order, and ``--help-all`` the rest; without any, ``--help`` shows all.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = inspect.signature(function)
        fixed = [p.replace(annotation=hints[p.name]) for p in own.parameters.values() if p.name != "settings"]
        placed = (panels or {}) | dict.fromkeys(matter, MATTERS)
        known = [name for name in model.model_fields if name not in without and name not in matter]
        flags = [
            _option(name, model.model_fields[name], placed.get(name, "Settings")) for name in (*matter, *known)
        ]  # fmt: skip
        if matter:
            flags.append(_help_all())

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop(_HELP_ALL, None)
            settings = {name: kwargs.pop(name) for name in model.model_fields if name in kwargs}
            return function(*args, settings={k: v for k, v in settings.items() if v is not None}, **kwargs)

        ordered = sorted([*fixed, *flags], key=lambda p: p.kind)
        wrapper.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in ordered}
        wrapper.__name__ = function.__name__
        wrapper.__doc__ = function.__doc__
        return wrapper

    return decorate
