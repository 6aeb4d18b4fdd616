"""Errors that speak Python: hints name keyword arguments where the command line has options."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, get_args, get_origin

from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError

P = ParamSpec("P")
T = TypeVar("T")

_OPTION = re.compile(
    r"(?P<before>\b(?:without|leave out|leaves out|no|start anew without) )?"
    r"--(?P<no>no-)?(?P<name>[a-z][a-z0-9-]*)"
    r"(?:(?P<gap>[ =])(?P<value>'[^']*'|[\w./+-]+(?:[:,][\w./+-]+)*))?",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[A-Z]+|[\d.]+|.*[\d,:/].*|'.*'|off|all|auto|cpu|cuda")
"""Words behind an option that are its value, whatever the option: NUMBER, 0.3, EPSG:4326, off."""
_HELP = re.compile(r"See `hsfuse ([a-z-]+) --help`[^.]*\.")
_RUN = "hsfuse run HSI MSI... -o OUT"
_FLAGS = frozenset({"dry_run"})


def speaks_python(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: errors of hsfuse name keyword arguments, and show their hint in the traceback."""

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*arguments, **keywords)
        except HsfuseError as error:
            _translate(error, f"hsfuse.{function.__name__}")
            raise

    return call


def _translate(error: HsfuseError, function: str) -> None:
    error.message, error.hint = (in_python(text, function) for text in (error.message, error.hint))
    error.args = (error.message, *error.args[1:])
    if error.hint:
        error.add_note(f"Hint: {error.hint}")


def in_python(text: str, function: str = "hsfuse.fuse_scene") -> str:
    """Turn a sentence for the command line into one for Python.

    Parameters
    ----------
    text
        Such as ``add --overwrite to replace it``.
    function
        Whose help is to be looked at.

    Returns
    -------
    str
        Such as ``add overwrite=True to replace it``.
    """
    text = _HELP.sub(f"See help({function}).", text)
    text = text.replace(_RUN, "hsfuse.fuse_scene(hsi, msi, output)").replace("the same command", "the same call")
    text = re.sub(r"Option '([a-z0-9-]+)'", lambda found: f"Setting '{found[1].replace('-', '_')}'", text)
    return _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    name = found["name"].replace("-", "_").lower()
    before, rest = found["before"] or "", (found["gap"] or "") + (found["value"] or "")
    annotation = bool if name in _FLAGS else _annotation(name)
    if annotation is None:
        return found[0]
    if annotation is bool:
        if before:
            return f"{before}{name}{rest}"
        return f"{name}={not found['no']}{rest}"
    value = found["value"]
    # A full stop or colon ends the sentence, not the value.
    end = value[len(value.rstrip(".:")) :] if value else ""
    value = value.rstrip(".:") if value else None
    if value is None or not (_VALUE.fullmatch(value) or value in _choices(name, annotation)):
        return f"{before}{name}{rest}"
    return f"{before}{name}={_literal(value, annotation)}{end}"


def _annotation(name: str) -> object:
    field = RunConfig.model_fields.get(name)
    return None if field is None else field.annotation


def _choices(name: str, annotation: object) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if name == "method":
        from hsfuse.fusion.registry import METHODS

        return METHODS.names()
    return ()


def _literal(value: str, annotation: object) -> str:
    """A value as Python writes it; a placeholder such as FILE stays what it is."""
    number = annotation in (int, float) or any(kind in (int, float) for kind in get_args(annotation))
    placeholder = value.isalpha() and value.isupper()
    if placeholder or value.startswith("'") or (number and re.fullmatch(r"[\d.]+", value)):
        return value
    return f'"{value}"'
