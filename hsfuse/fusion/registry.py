"""What a fusion method declares about itself, and the registry in which methods are found by name.

Nothing here imports PyTorch: methods are listed, and a run is planned, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionMethod, Precision, Quality
from hsfuse.registry import Registry

if TYPE_CHECKING:
    from torch import nn

FAMILIES = (
    "interpolation", "component substitution", "multiresolution analysis", "matrix factorisation",
    "tensor factorisation", "variational", "unsupervised network", "network",
)  # fmt: skip
"""Kinds of algorithms in the order in which methods are listed; others come after them."""
Settings = Mapping[str, Any]
"""Configuration of a network: plain values, as they stand in the header of its weights."""


@dataclass(frozen=True)
class NetworkEntry:
    """What a trained network declares beyond other methods.

    Attributes
    ----------
    architecture
        Name that weights carry; several methods (sizes) may share one.
    settings
        Settings of this method, plain values; ``n_bands`` and ``n_msi`` are added from the data.
    build
        Makes the untrained module from complete settings.
    wrap
        Makes the fusion method from weights that were loaded; takes the keyword ``precision`` and the options of the
        method.
    task
        Makes the training task (:class:`hsfuse.training.task.TrainingTask`) from the module and a
        :class:`hsfuse.training.task.TaskSetup`; None where it cannot be trained with ``train-reduced``.
    scene_task
        Makes the training task that adapts the module to one scene, from the module, the scene's
        :class:`hsfuse.fusion.base.FusionContext`, its low-resolution strips and the quality that it will be fused
        with; None: ``task`` on reduced pairs of the scene.
    complete
        Checks settings and fills in defaults; raises UsageError. None: settings are complete as they are.
    recipes
        Training recipes beside ``default``: name -> changes to it. One called ``default`` changes that.
    precisions
        What its arithmetic may be; the first is the default on processors without fast half precision.
    weights
        Weights that come with the method; None: those of the model zoo, where there are any.
    any_bands
        It takes any bands, MSI bands and ratios: settings and weights say nothing of them.
    takes_prior
        Whether ``wrap`` takes ``prior``, weights of a diffusion prior.
    refines_with
        Qualities with which its own refinement (``FusionMethod.at_quality``) gains over the step behind the classical
        method: ``--method auto`` tries it with these, and with ``--adapt``; empty where it has none: ``auto`` tries it
        with ``--quality plain`` and ``--adapt``.
    superseded
        Architectures whose weights methods of this name took before, and what those were, as the end of a sentence.
    former_architectures
        Names that weights of this architecture carry from before it was renamed: they are read as today's.
    """

    architecture: str
    settings: Settings
    build: Callable[[Settings], nn.Module]
    wrap: Callable[..., FusionMethod]
    task: Callable[..., Any] | None = None
    scene_task: Callable[..., Any] | None = None
    complete: Callable[[Settings], dict[str, Any]] | None = None
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precisions: tuple[Precision, ...] = ("fp32",)
    weights: Path | None = None
    any_bands: bool = False
    takes_prior: bool = False
    refines_with: tuple[Quality, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    former_architectures: tuple[str, ...] = ()

    def completed(self, settings: Settings) -> dict[str, Any]:
        """Return complete settings.

        Raises
        ------
        UsageError
            A setting is unknown or impossible.
        """
        return dict(settings) if self.complete is None else self.complete(settings)


@dataclass(frozen=True)
class MethodEntry:
    """A fusion method as the registry knows it.

    Attributes
    ----------
    name
        On the command line; that of its entry point.
    family
        Kind of algorithm, one of :data:`FAMILIES` or another; methods are listed by it.
    summary
        One line.
    reference
        Paper or source.
    licence
        Of what its authors released; what is here is written anew. Empty: not said.
    create
        Makes the method from its options. None for networks with weights, which are loaded.
    network
        For networks that are trained before they are used.
    auto_rank
        Place in the order in which ``--method auto`` tries methods, lowest first: networks are tried before classical
        methods, and the first classical one is the fallback. None: never chosen automatically.
    variants
        Options under which a comparison of all methods shows it, as on the command line; empty: not at all.
    uses_guide
        Whether it looks at the MSI at all. What does not is left as it is by ``--quality``.
    former_names
        That it had before: who gives one is told today's.
    """

    name: str
    family: str
    summary: str
    reference: str = ""
    licence: str = ""
    create: Callable[..., FusionMethod] | None = None
    network: NetworkEntry | None = None
    auto_rank: int | None = None
    variants: tuple[str, ...] = ("",)
    uses_guide: bool = True
    former_names: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["classical", "network"]:
        """``network`` where it is trained before use and takes weights and a precision."""
        return "classical" if self.network is None else "network"


class MethodRegistry(Registry[MethodEntry]):
    """Methods by name; who gives a former name is told today's."""

    def renamed(self, name: str) -> str:
        """Today's name of a method that had another one; empty where none had it."""
        return next((today for today, entry in self.entries() if name in entry.former_names), "")

    def _missing(self, name: str) -> UsageError:
        today = self.renamed(name)
        if not today:
            return super()._missing(name)
        return UsageError(f"The fusion method '{name}' is called '{today}' today.", hint=f"Use '{today}'.")


METHODS = MethodRegistry("hsfuse.methods", MethodEntry, "fusion method")
"""All fusion methods, those of other installed packages included."""


def listed_methods() -> list[MethodEntry]:
    """All methods by family and name."""

    def place(entry: MethodEntry) -> tuple[int, str, str]:
        known = entry.family in FAMILIES
        return (FAMILIES.index(entry.family) if known else len(FAMILIES)), entry.family, entry.name

    return sorted((entry for _, entry in METHODS.entries()), key=place)


def available_methods() -> dict[str, str]:
    """Names of all methods with one line about each."""
    return {entry.name: entry.summary for entry in listed_methods()}


def uses_guide(name: str) -> bool:
    """Tell whether a method looks at the MSI; where it does not, there is nothing to repair or to refine."""
    return name not in METHODS or METHODS.get(name).uses_guide


def is_network(name: str) -> bool:
    """Tell whether a method is a trained network: those take weights (``model``) and a ``precision``."""
    return name in METHODS and METHODS.get(name).network is not None


def network_entries() -> Iterator[tuple[str, NetworkEntry]]:
    """All methods that are trained networks."""
    for name, entry in METHODS.entries():
        if entry.network is not None:
            yield name, entry.network


def architecture(name: str) -> NetworkEntry:
    """Find the declaration of an architecture.

    Raises
    ------
    UsageError
        No installed method has it.
    """
    for _, entry in network_entries():
        if entry.architecture == name:
            return entry
    raise UsageError(
        f"There is no network architecture '{name}'.",
        hint="The weights come from a newer version of hsfuse, or the package of that network is not installed.",
    )


def architecture_today(name: str) -> str:
    """Today's name of an architecture that weights may carry a former name of; others stay as they are."""
    return next((entry.architecture for _, entry in network_entries() if name in entry.former_architectures), name)


def automatic_methods(kind: Literal["classical", "network"]) -> tuple[str, ...]:
    """Methods that ``--method auto`` may choose, in the order in which it tries them."""
    ranked = [(entry.auto_rank, name) for name, entry in METHODS.entries() if entry.kind == kind]
    return tuple(name for _, name in sorted((rank, name) for rank, name in ranked if rank is not None))


def fallback_method() -> str:
    """Name of the classical method that serves where no network does.

    Raises
    ------
    HsfuseError
        No classical method may be chosen automatically: the installation is broken.
    """
    names = automatic_methods("classical")
    if not names:
        raise HsfuseError("No classical fusion method is installed.", hint="Install hsfuse again.")
    return names[0]
