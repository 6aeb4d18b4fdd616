"""The network that a training starts from: new, or with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hsfuse.config import TrainConfig
from hsfuse.errors import UsageError
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import LoadedNetwork, load_named
from hsfuse.fusion.registry import METHODS, NetworkEntry, Settings, architecture
from hsfuse.workflows.training.training_data import TrainingData


@dataclass(frozen=True)
class StartNetwork:
    """A network to start from.

    Attributes
    ----------
    entry
        Its declaration.
    name
        Method, or name kept in its weights.
    network
        The module.
    settings
        Its complete settings.
    header
        Of the weights; None for a new network.
    sha256
        Hash of the weights.
    """

    entry: NetworkEntry
    name: str
    network: nn.Module
    settings: dict[str, Any]
    header: NetworkHeader | None = None
    sha256: str | None = None

    @property
    def n_parameters(self) -> int:
        """Number of learned values."""
        return sum(p.numel() for p in self.network.parameters())


def start_weights(config: TrainConfig) -> LoadedNetwork | None:
    """Load the weights to start from, so that a damaged file is found before minutes of co-registration.

    Raises
    ------
    UsageError
        There is no such network, nobody has trained it, or it cannot be trained.
    InputError
        The weights cannot be used.
    """
    if config.init is None:
        trainable(config.method)
        return None
    if config.network_settings:
        raise UsageError("--network-settings cannot change a trained network.", hint="Leave out --init.")
    loaded = load_named(config.init)
    entry = architecture(loaded.header.architecture)
    if entry.task is None:
        raise UsageError(f"The network '{loaded.header.name}' cannot be trained with train-reduced.")
    return loaded


def trainable(name: str) -> NetworkEntry:
    """Return the declaration of a network that can be trained.

    Raises
    ------
    UsageError
        There is no such method, or it is not trained.
    """
    entry = METHODS.get(name).network
    if entry is None or entry.task is None:
        raise UsageError(f"The method '{name}' is not trained.", hint="`hsfuse models` lists the networks.")
    return entry


def start_network(config: TrainConfig, data: TrainingData, loaded: LoadedNetwork | None) -> StartNetwork:
    """Make the network, or take the loaded one.

    Raises
    ------
    UsageError
        Settings are impossible, or the weights do not take the data.
    """
    if loaded is not None:
        header = loaded.header
        if header.n_msi and header.n_msi != len(data.msi_bands):
            raise UsageError(
                f"The weights take {header.n_msi} MSI bands, the data bring {len(data.msi_bands)}.",
                hint="Check --s2-bands.",
            )
        entry = architecture(header.architecture)
        network = loaded.network.requires_grad_(True)
        return StartNetwork(entry, header.name, network, dict(header.config), header, loaded.sha256)
    entry = trainable(config.method)
    changes = parse_network_settings(config.network_settings, entry.settings)
    shape = {} if entry.any_bands else {"n_bands": len(data.bands), "n_msi": len(data.msi_bands)}
    settings = entry.completed({**entry.settings, **changes, **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return StartNetwork(entry, config.method, entry.build(settings), settings)


def parse_network_settings(text: str | None, known: Settings) -> dict[str, Any]:
    """Turn ``width=48,scan=lines`` into settings of a network.

    Parameters
    ----------
    text
        What the user gave.
    known
        The network's own settings: "none" is a word where they hold a word, and no value elsewhere.

    Raises
    ------
    UsageError
        A part has no ``=``.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not value:
            raise UsageError(f"'{part}' is not a network setting.", hint="Such as --network-settings width=48.")
        found[name] = _value(value, known.get(name))
    return found


def _value(text: str, known: object) -> Any:
    words: dict[str, Any] = {"true": True, "false": False}
    if text.lower() == "none":
        return text if isinstance(known, str) else None
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
