"""Settings of networks: frozen dataclasses of plain values that check themselves. Read without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from hsfuse.errors import UsageError


@dataclass(frozen=True)
class NetworkSettings:
    """Base of every network's settings: words, switches, positive whole numbers, and shares."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            _check(field.name, getattr(self, field.name), hints[field.name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the weights' metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; unknown names are errors.

        Raises
        ------
        UsageError
            A name is unknown or a value impossible.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(
                f"The network configuration has unknown settings: {', '.join(unknown)}.",
                hint="The file may come from a newer version of hsfuse.",
            )
        return cls(**values)


def _check(name: str, value: object, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            shown = ", ".join(map(str, get_args(hint)))
            raise UsageError(f"{name} = {value!r} is not possible; choose one of: {shown}.")
    elif hint is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be true or false, not {value!r}.")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UsageError(f"{name} must be a number of at least 0, not {value!r}.")
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"{name} must be a positive whole number, not {value!r}.")
