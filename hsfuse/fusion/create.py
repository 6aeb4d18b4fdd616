"""Make fusion methods from their names; networks with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsfuse.errors import HsfuseError, InputError, UsageError
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.fusion.registry import METHODS, NetworkEntry


def create_method(name: str, *, model: str | Path | None = None, **options: Any) -> FusionMethod:
    """Make a method by name.

    Parameters
    ----------
    name
        Of the method.
    model
        Weights of a network: a name of the zoo or a file; None: those of the method's own name.
    **options
        Of the method; ``precision`` for networks.

    Raises
    ------
    UsageError
        There is no such method, an option makes no sense, or nobody has trained the network.
    InputError
        The weights cannot be used.
    """
    entry = METHODS.get(name)
    if entry.network is not None:
        return _with_weights(name, entry.network, model, options)
    if model is not None:
        raise UsageError(f"The method '{name}' takes no weights.", hint="Weights belong to networks.")
    if entry.create is None:
        raise HsfuseError(f"The method '{name}' does not say how it is made.")
    return entry.create(**options)


def _with_weights(
    name: str, entry: NetworkEntry, model: str | Path | None, options: dict[str, Any]
) -> FusionMethod:  # fmt: skip
    from hsfuse.fusion.nets.weights import load_named

    given = name if model is None else model
    header = find_model(given).header()
    if header is not None:
        _check_architecture(name, entry, given, header.architecture)
    loaded = load_named(given)
    precision = options.get("precision", entry.precisions[0])
    if precision not in entry.precisions:
        raise UsageError(
            f"The network '{name}' does not run in precision '{precision}'.",
            hint=f"Choose one of: {', '.join(entry.precisions)}.",
        )
    return entry.wrap(loaded, **options)


def _check_architecture(name: str, entry: NetworkEntry, given: str | Path, found: str) -> None:
    """Raise UsageError where weights are those of another network, InputError where this one took them before."""
    if found == entry.architecture:
        return
    if found in entry.superseded:
        raise InputError(
            f"The weights {given} are those of a former '{name}', {entry.superseded[found]}; that of today cannot use "
            "them.",
            hint="Leave out --model: the weights that come with hsfuse serve any bands. 'hsfuse train-reduced' trains "
            "others.",
        )
    raise UsageError(
        f"The weights {given} belong to a network '{found}'; the method '{name}' is a network '{entry.architecture}'.",
        hint="Give weights that fit the method, or the method that fits the weights.",
    )
