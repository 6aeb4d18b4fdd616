"""Registries of methods, readers, writers and metrics: found through entry points, loaded on first use.

The package's own entries and those of other installed distributions are found the same way, in the groups
``hsfuse.methods``, ``hsfuse.readers``, ``hsfuse.writers`` and ``hsfuse.metrics``. An entry point names one object, its
*entry*; only the module that defines the entry is imported when the entry is asked for, and that module imports heavy
libraries inside functions, so that listing what there is stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from hsfuse.errors import UsageError, did_you_mean
from hsfuse.log import get_logger

_log = get_logger(__name__)

OWN_DISTRIBUTION = "hsfuse"

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one group by name.

    Parameters
    ----------
    group
        Entry point group, such as ``hsfuse.methods``.
    kind
        Class of the entries; anything else is refused.
    noun
        What an entry is called in messages, such as ``fusion method``.
    """

    def __init__(self, group: str, kind: type[Entry], noun: str) -> None:
        self.group = group
        self._kind = kind
        self._noun = noun
        self._points: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, Entry] = {}

    def names(self) -> tuple[str, ...]:
        """Names of all entries, the package's own first."""
        return tuple(self._found())

    def __contains__(self, name: object) -> bool:
        return name in self._found()

    def get(self, name: str) -> Entry:
        """Load an entry.

        Raises
        ------
        UsageError
            There is none of that name, or it cannot be loaded.
        """
        if name in self._loaded:
            return self._loaded[name]
        point = self._found().get(name)
        if point is None:
            raise self._missing(name)
        try:
            entry = point.load()
        except Exception as error:
            if _is_own(point):
                raise
            raise UsageError(
                f"The {self._noun} '{name}' of {_distribution(point)} cannot be loaded: {error}.",
                hint="Repair or remove that package.",
            ) from error
        if not isinstance(entry, self._kind):
            raise UsageError(
                f"The {self._noun} '{name}' of {_distribution(point)} is a {type(entry).__name__}, "
                f"not a {self._kind.__name__}.",
                hint="Repair or remove that package.",
            )
        self._loaded[name] = entry
        return entry

    def _missing(self, name: str) -> UsageError:
        """Return the error for a name that no entry has."""
        return UsageError(
            f"There is no {self._noun} '{name}'.",
            hint=f"{did_you_mean(name, self._found())}Choose one of: {', '.join(sorted(self._found()))}.",
        )

    def look_again(self) -> None:
        """Forget what was found and loaded: packages were installed or removed meanwhile."""
        self._points = None
        self._loaded.clear()

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Iterate over all entries; one of another package that cannot be loaded is passed over with a warning."""
        for name, point in self._found().items():
            try:
                yield name, self.get(name)
            except UsageError as error:
                if _is_own(point):
                    raise
                _log.warning("%s", error.message)

    def _found(self) -> dict[str, EntryPoint]:
        if self._points is None:
            # A name of the package's own cannot be taken over by another distribution.
            points = sorted(entry_points(group=self.group), key=lambda point: not _is_own(point))
            found: dict[str, EntryPoint] = {}
            for point in points:
                if point.name in found:
                    if point.value != found[point.name].value:
                        _log.warning(
                            "The %s '%s' of %s is passed over: the name is taken.",
                            self._noun, point.name, _distribution(point),
                        )  # fmt: skip
                    continue
                found[point.name] = point
            self._points = found
        return self._points


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _is_own(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == OWN_DISTRIBUTION
