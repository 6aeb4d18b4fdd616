"""Methods as text: ``name[:option=value,...][@weights][+guard=value,...]``, for comparisons and benchmarks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.fidelity import FidelityOptions
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.zoo import find_model, list_models, untrained
from hsfuse.fusion.registry import METHODS, available_methods, is_network, listed_methods

_PART = re.compile(r"^[a-z_]+=", re.IGNORECASE)


@dataclass(frozen=True)
class MethodSpecification:
    """A method that somebody asked for.

    Attributes
    ----------
    label
        For tables.
    name
        In the registry.
    options
        For the method itself.
    weights
        Weights of a network: file or name; None: the zoo's for ``name``.
    guards
        Fidelity guards behind it.
    adapt_minutes
        Training on the scene before the fusion; None: none.
    """

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    guards: FidelityOptions = field(default_factory=FidelityOptions)
    adapt_minutes: float | None = None

    @property
    def network(self) -> bool:
        """Whether it is a network."""
        return is_network(self.name)

    def header(self) -> NetworkHeader:
        """What the weights of a network say about themselves.

        Raises
        ------
        UsageError, InputError
            There are no weights, or they cannot be used.
        """
        header = find_model(self.weights or self.name).header()
        if header is None:
            raise untrained(self.name)
        return header

    def create(self, **more: Any) -> FusionMethod:
        """Make the method, without its guards.

        Raises
        ------
        UsageError, InputError
            An option is unknown or wrong, or a network has no weights.
        """
        options = self.options | more
        if self.weights is not None:
            options["model"] = self.weights
        try:
            return create_method(self.name, **options)
        except TypeError as error:
            raise UsageError(
                f"The method '{self.label}' cannot be made: {error}.", hint="Check its options."
            ) from error


def parse_specification(text: str) -> MethodSpecification:
    """Understand one method.

    Raises
    ------
    UsageError
        The method does not exist, or an option or guard makes no sense.
    """
    rest, _, guards = text.partition("+")
    head, at, weights = rest.partition("@")
    name, _, options = head.partition(":")
    if name not in available_methods():
        raise UsageError(f"There is no fusion method '{name}'.", hint=f"Choose from: {', '.join(available_methods())}.")
    if at and not is_network(name):
        raise UsageError(f"The method '{name}' takes no weights (@{weights}).", hint="Weights belong to networks.")
    values = parse_values(options, text)
    try:
        chosen = FidelityOptions(**parse_values(guards, text))
    except TypeError as error:
        known = ", ".join(FidelityOptions.__dataclass_fields__)
        raise UsageError(f"'{text}' names an unknown fidelity guard.", hint=f"Guards: {known}.") from error
    label = f"{head}@{Path(weights).name}" if at else head
    return MethodSpecification(label + (f"+{guards}" if guards else ""), name, values, weights if at else None, chosen)


def parse_values(text: str, whole: str = "") -> dict[str, Any]:
    """Turn ``a=1,b=word`` into a dictionary; values are JSON where they can be, else text."""
    found: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise UsageError(f"'{item}' in '{whole or text}' is not option=value.", hint="Such as glp:adaptive=false.")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def split_specifications(text: str) -> list[str]:
    """Split a list at spaces and commas, but not at the commas between the options of one method."""
    found: list[str] = []
    for item in filter(None, re.split(r"[\s,]+", text)):
        if found and _PART.match(item):
            found[-1] += f",{item}"
        else:
            found.append(item)
    return found


def classics() -> list[str]:
    """Every classical method, in the variants in which it wants to be compared."""
    found = [entry for entry in listed_methods() if entry.kind == "classical"]
    return [f"{entry.name}:{variant}" if variant else entry.name for entry in found for variant in entry.variants]


def usual_specifications() -> list[MethodSpecification]:
    """Classical methods as they want to be compared, and the trained networks that may be chosen automatically."""
    networks = [name for name in _trained() if METHODS.get(name).auto_rank is not None]
    return [parse_specification(text) for text in (*classics(), *networks)]


def all_specifications() -> list[MethodSpecification]:
    """Every method, also those that are compared on demand only, and every network that has weights."""
    shown = classics()
    others = [e.name for e in listed_methods() if e.kind == "classical" and not e.variants]
    return [parse_specification(text) for text in (*shown, *others, *_trained())]


def _trained() -> list[str]:
    return [m.name for m in list_models() if m.weights is not None and is_network(m.name)]
