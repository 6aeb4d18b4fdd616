"""Make fusion methods from their names; networks with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import METHODS, architecture


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
        return _with_weights(name, entry.network.architecture, model, options)
    if model is not None:
        raise UsageError(f"The method '{name}' takes no weights.", hint="Weights belong to networks.")
    if entry.create is None:
        raise HsfuseError(f"The method '{name}' does not say how it is made.")
    return entry.create(**options)


def _with_weights(name: str, wanted: str, model: str | Path | None, options: dict[str, Any]) -> FusionMethod:
    from hsfuse.fusion.nets.weights import load_named

    loaded = load_named(name if model is None else model)
    if loaded.header.architecture != wanted:
        raise UsageError(
            f"The weights {model or name} belong to a network '{loaded.header.architecture}'; the method '{name}' is a "
            f"network '{wanted}'.",
            hint="Give weights that fit the method, or the method that fits the weights.",
        )
    entry = architecture(wanted)
    precision = options.get("precision", entry.precisions[0])
    if precision not in entry.precisions:
        raise UsageError(
            f"The network '{name}' does not run in precision '{precision}'.",
            hint=f"Choose one of: {', '.join(entry.precisions)}.",
        )
    return entry.wrap(loaded, **options)
