"""What an output format is, and which there are: the package's own and those of other distributions.

A format is a folder (or module) that exports one :class:`FormatEntry`, declared as an entry point of the group
``hsfuse.writers``. Nothing outside that folder names the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.registry import Registry
from hsfuse.writers.band_metadata import CubeMetadata
from hsfuse.writers.encoding import RowSource, SampleEncoding


def ignore(amount: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class CubeContent:
    """A finished cube that is to become a product.

    Attributes
    ----------
    rows
        Stored samples, from top to bottom.
    metadata, grid, encoding
        What the cube is, where it lies, how its samples are stored.
    """

    rows: RowSource
    metadata: CubeMetadata
    grid: Grid
    encoding: SampleEncoding


@dataclass(frozen=True)
class BuildOptions:
    """How a product is built.

    Attributes
    ----------
    compress
        One of the format's :attr:`FormatEntry.compressions`.
    threads
        Threads to compress with; all cores when None. They must not change the bytes.
    advance
        Called with the number of rows done, to show progress.
    """

    compress: str = "none"
    threads: int | None = None
    advance: Callable[[float], None] = ignore


@dataclass(frozen=True)
class DiskNeed:
    """Disk space of a product.

    Attributes
    ----------
    product
        Bytes of the finished product; an upper estimate where it is compressed.
    building
        Bytes that building it takes at its peak besides the rows of the unfinished run, the product included.
    """

    product: int
    building: int


class CubeReader(Protocol):
    """A finished product, opened to be read back; a context manager."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(band, row, col)."""
        ...

    @property
    def identity(self) -> str:
        """Identity of the run that made the product, empty where there is none."""
        ...

    def read(
        self, bands: Sequence[int] | None, block: Slice2D, out_shape: tuple[int, int] | None = None
    ) -> NDArray[np.float32]:
        """Reflectance of bands (all when None) of a block, averaged down to ``out_shape``; NaN = no data."""
        ...

    def close(self) -> None:
        """Release the product."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


Build = Callable[[CubeContent, Path, BuildOptions], None]
Open = Callable[[Path], CubeReader]
NeedDisk = Callable[[int, Grid, str], DiskNeed]


def _no_companions(_path: Path) -> Mapping[str, Path]:
    return {}


def _no_users(_path: Path) -> Sequence[Path]:
    return ()


def _raw_size(raw: int, _grid: Grid, _compress: str) -> DiskNeed:
    return DiskNeed(raw, raw)


@dataclass(frozen=True)
class FormatEntry:
    """An output format.

    Attributes
    ----------
    name
        Name for ``--format``.
    summary
        One line about it.
    suffixes
        Suffixes of its products in lower case, with the dot; the first one stands in hints.
    media_type
        Media type of the product in STAC.
    build
        ``build(content, path, options)`` writes the product to ``path``, a name that is free, and its companions to
        the names that :attr:`companions` gives for it. All is moved to the final names afterwards, so nothing in the
        product may depend on ``path``. Equal content must give equal bytes.
    open
        ``open(path)`` returns a :class:`CubeReader`; raises OutputError where the product cannot be read.
    compressions
        Values of ``--compress`` that it takes. Empty: it is never compressed and the option does not concern it.
    any_suffix
        Takes, when named by ``--format``, every suffix that is neither another format's nor in
        :attr:`refused_suffixes`.
    refused_suffixes
        Suffixes that promise something else.
    automatic
        Chosen for its suffixes where no format is named. At most one format should be, of those that share a suffix.
    is_folder
        A product is a folder.
    keeps_rows
        The raw file of the finished rows becomes the product's, so that building takes no space.
    follows_rows
        ``build`` reads the rows from top to bottom and may begin before the last ones are made: reading them waits.
    companions
        ``companions(path)`` returns the files beside ``path`` that are part of the product by what they are, such as
        ``{"header": out.hdr}``.
    companion_users
        ``companion_users(path)`` returns other files that rely on a companion which is there already.
    disk_need
        ``disk_need(raw, grid, compress)`` returns the need for ``raw`` bytes of samples.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...]
    media_type: str
    build: Build = field(repr=False)
    open: Open = field(repr=False)
    compressions: tuple[str, ...] = ()
    any_suffix: bool = False
    refused_suffixes: tuple[str, ...] = ()
    automatic: bool = True
    is_folder: bool = False
    keeps_rows: bool = False
    follows_rows: bool = False
    companions: Callable[[Path], Mapping[str, Path]] = field(default=_no_companions, repr=False)
    companion_users: Callable[[Path], Sequence[Path]] = field(default=_no_users, repr=False)
    disk_need: NeedDisk = field(default=_raw_size, repr=False)


FORMATS: Registry[FormatEntry] = Registry("hsfuse.writers", FormatEntry, "output format")
"""All output formats by name."""

HEADER_SUFFIXES = (".hdr",)
"""Names of headers, which are no products."""


def resolve_format(path: Path, wanted: str = "auto") -> FormatEntry:
    """Decide the format from the option and the file name.

    Parameters
    ----------
    path
        The output.
    wanted
        Name of a format; ``auto`` decides from the suffix.

    Raises
    ------
    UsageError
        There is no such format, the name and the format contradict each other, or the suffix is unknown.
    """
    suffix = path.suffix.lower()
    if suffix in HEADER_SUFFIXES:
        raise UsageError(
            f"The output {path.name} names an ENVI header.",
            hint=f"Name the data file, such as {path.with_suffix('.img').name}; the header is written beside it.",
        )
    if wanted != "auto":
        return _checked_name(path, suffix, FORMATS.get(wanted))
    entries = [entry for _, entry in FORMATS.entries() if entry.automatic]
    found = next((entry for entry in entries if suffix in entry.suffixes), None)
    if found is None:
        known = ", ".join(dict.fromkeys(f"{entry.suffixes[0]} for {entry.name}" for entry in entries))
        raise UsageError(
            f"The suffix '{suffix}' of the output {path.name} is not known.", hint=f"Use {known} (--format)."
        )
    return found


def _checked_name(path: Path, suffix: str, entry: FormatEntry) -> FormatEntry:
    if suffix in entry.suffixes:
        return entry
    others = {suffix for _, other in FORMATS.entries() for suffix in other.suffixes}
    if entry.any_suffix and suffix not in others and suffix not in entry.refused_suffixes:
        return entry
    raise UsageError(
        f"The output {path.name} does not look like a product of the format {entry.name}.",
        hint=f"Use the suffix {' or '.join(entry.suffixes[:2])}, or another --format.",
    )


def rows_of(reader: CubeReader, row0: int, rows: int, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Reflectance of whole rows of an open product, shape (band, rows, col), NaN = no data."""
    return reader.read(bands, Slice2D(row0, row0 + rows, 0, reader.shape[2]))


def read_identity(path: Path, entry: FormatEntry) -> str:
    """Identity of the run that made a product; empty for what is not hsfuse's or cannot be read."""
    from hsfuse.errors import HsfuseError

    try:
        with entry.open(path) as reader:
            return reader.identity
    except (HsfuseError, OSError):
        return ""


def stored_number(value: Any) -> float | int | str:
    """A nodata value as JSON has it: ``nan`` as text."""
    return "nan" if np.isnan(value) else int(value)
