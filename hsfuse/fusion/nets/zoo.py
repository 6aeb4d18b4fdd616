"""The model zoo: which networks there are, and where their weights lie. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.header import NetworkHeader, read_header
from hsfuse.fusion.registry import METHODS, fallback_method

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.md"


@dataclass(frozen=True)
class ModelInfo:
    """One network: a method, with weights or not, or a weights file.

    Attributes
    ----------
    name
        As given to ``--method`` or ``--model``.
    weights
        The weights file, or None while nobody has trained the network.
    description
        One line.
    reference
        Paper or source.
    settings
        Of the method, before it is trained; those of weights stand in their header.
    family
        Architecture: networks of several sizes share one.
    licence
        See :class:`hsfuse.fusion.registry.MethodEntry`.
    """

    name: str
    weights: Path | None
    description: str = ""
    reference: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    licence: str = ""

    @property
    def card(self) -> Path | None:
        """The model card beside the weights, where there is one."""
        path = None if self.weights is None else self.weights.with_name(CARD_FILE)
        return path if path is not None and path.is_file() else None

    def header(self) -> NetworkHeader | None:
        """What the weights say about themselves; None without weights."""
        return None if self.weights is None else read_header(self.weights)


def zoo_folders() -> list[Path]:
    """Folders that may hold the zoo: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[2]
    return [folder for folder in (package / "_models", package.parent / "models") if folder.is_dir()]


def list_models() -> list[ModelInfo]:
    """Every method that is a network, trained or not, and every folder of the zoo with weights, by name."""
    weights: dict[str, Path] = {}
    for root in zoo_folders():
        for file in sorted(root.glob(f"*/{WEIGHTS_FILE}")):
            weights.setdefault(file.parent.name, file)
    found = {name: ModelInfo(name, weights[name]) for name in weights}
    for name, entry in METHODS.entries():
        if entry.network is not None:
            own = entry.network.weights
            own_file = own if own is not None and own.is_file() else None
            found[name] = ModelInfo(
                name, weights.get(name, own_file), entry.summary, entry.reference, dict(entry.network.settings),
                entry.network.architecture, entry.licence,
            )  # fmt: skip
    return [found[name] for name in sorted(found)]


def find_model(name_or_path: str | Path) -> ModelInfo:
    """Find a network by its name in the zoo, or by the path of its weights or their folder.

    Raises
    ------
    UsageError
        There is no such network.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise UsageError(f"There is no weights file {path}.", hint="Check the path.")
        return ModelInfo(path.stem, path, str(path))
    if (path / WEIGHTS_FILE).is_file():
        return ModelInfo(path.name, path / WEIGHTS_FILE, str(path))
    models = {model.name: model for model in list_models()}
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    today = METHODS.renamed(str(name_or_path))
    if today:
        raise UsageError(f"The network '{name_or_path}' is called '{today}' today.", hint=f"Use '{today}'.")
    raise UsageError(
        f"There is no network '{name_or_path}'.",
        hint=f"Give a .safetensors file or one of the zoo: {', '.join(models) or 'none'}.",
    )


def untrained(name: str) -> UsageError:
    """Return the error for a network that nobody has trained yet."""
    return UsageError(
        f"The network '{name}' has no trained weights.",
        hint=f"Use --method {fallback_method()}, or train it with 'hsfuse train-reduced'.",
    )
