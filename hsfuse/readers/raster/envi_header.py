"""ENVI headers: read in linear time, and used only for the file that they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsfuse.errors import InputError

MAX_HEADER_BYTES = 64 << 20
"""Larger files are no headers."""

DATA_SUFFIXES = (".img", ".dat", "", ".bsq", ".bil", ".bip", ".raw", ".bin", ".envi", ".rfl", ".tif", ".tiff")
"""Suffixes of data files, the usual ones first; any other suffix serves too."""

_NO_DATA_SUFFIXES = frozenset(
    {".hdr", ".xml", ".enp", ".sta", ".ovr", ".msk", ".aux", ".html", ".json", ".txt", ".csv", ".prj", ".png", ".jpg"}
    | {".jpeg", ".pdf", ".md", ".log", ".qml", ".sli", ".part", ".gz", ".zip", ".tfw", ".pgw", ".wld"}
)
_SAMPLE_BYTES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 9: 16, 12: 2, 13: 4, 14: 8, 15: 8}
"""Bytes a sample of each ENVI ``data type``."""
_MAP_NUMBERS = 7
"""Of ``map info``, reference pixel, position and pixel size stand behind the projection's name."""


@dataclass(frozen=True)
class EnviHeader:
    """Entries of one header.

    Attributes
    ----------
    path
        The file; None when there is none.
    entries
        Values by lower-case name; lists keep their braces.
    notes
        Why a header that lies beside the image is not used, in sentences.
    """

    path: Path | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def number(self, name: str) -> int | None:
        """Return an entry as a whole number, None when it is missing or none."""
        try:
            return int(self.entries[name])
        except (KeyError, ValueError):
            return None

    @property
    def data_bytes(self) -> int | None:
        """Size of the data file that the header describes; None when it does not say, or for compressed files."""
        shape = [self.number(name) for name in ("samples", "lines", "bands")]
        sample = _SAMPLE_BYTES.get(self.number("data type") or 0)
        compressed = (self.number("file compression") or 0) != 0
        if compressed or sample is None or any(value is None or value < 1 for value in shape):
            return None
        samples, lines, bands = (int(value or 0) for value in shape)
        return (self.number("header offset") or 0) + samples * lines * bands * sample


def parse_header(path: Path) -> dict[str, str] | None:
    """Return the entries of an ENVI header; None when the file is none.

    Raises
    ------
    InputError
        It is too large for a header.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(64).lstrip()[:4] != b"ENVI":
                return None
            file.seek(0)
            raw = file.read(MAX_HEADER_BYTES + 1)
    except OSError:
        return None
    if len(raw) > MAX_HEADER_BYTES:
        raise InputError(
            f"{path}: an ENVI header of more than {MAX_HEADER_BYTES >> 20} MB.", hint="The file is no header."
        )
    return dict(_entries(raw.decode("latin-1")))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of every entry; a value in braces may go over several lines."""
    lines = iter(text.splitlines())
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or name.lstrip().startswith(";"):
            continue
        value = value.strip()
        if value.startswith("{") and "}" not in value:
            parts = [value]
            for more in lines:
                parts.append(more.strip())
                if "}" in more:
                    break
            value = "\n".join(parts)
        if value.startswith("{"):
            value = value[: value.index("}") + 1] if "}" in value else value + "}"
        yield " ".join(name.split()).lower(), value


def header_of(data: Path, files: tuple[Path, ...], shape: tuple[int, int, int]) -> EnviHeader:
    """Return the header that belongs to an open raster.

    ``x.tif.hdr`` belongs to ``x.tif`` by its name. ``x.hdr`` may belong to any file ``x.*``: to the one that GDAL
    opened with it, else only when it describes an image of this shape and no other file fits it.

    Parameters
    ----------
    data
        The raster.
    files
        Files that GDAL itself reads for it.
    shape
        Its bands, rows and columns.
    """
    own = [path for path in files if path.suffix.lower() == ".hdr" and path.name != data.name]
    for path in own:
        if (entries := parse_header(path)) is not None:
            return EnviHeader(path, entries)
    notes = []
    for path in _siblings(data.parent, {f"{data.name}.hdr".lower(), f"{data.stem}.hdr".lower()}):
        entries = parse_header(path)
        if entries is None or path.name == data.name:
            continue
        header = EnviHeader(path, entries)
        if (problem := _foreign(header, data, shape)) is None:
            return header
        notes.append(f"{path.name} {problem}, so it was not used for {data.name}.")
    return EnviHeader(notes=tuple(notes))


def _siblings(folder: Path, names: set[str]) -> list[Path]:
    """Files of some names (lower case) in a folder, the longer names first: they are the more specific ones."""
    try:
        found = [path for path in folder.iterdir() if path.name.lower() in names]
    except OSError:
        return []
    return sorted(found, key=lambda path: (-len(path.name), path.name))


def _foreign(header: EnviHeader, data: Path, shape: tuple[int, int, int]) -> str | None:
    """Why a header belongs to another file; None when it belongs to this one."""
    for name, actual in zip(("bands", "lines", "samples"), shape, strict=True):
        told = header.number(name)
        if told is not None and told != actual:
            return f"describes an image of {told} {name}, not {actual}"
    if header.path is not None and header.path.stem.lower() != data.name.lower():
        others = [path for path in data_files(header) if path.name != data.name]
        if others and header.data_bytes is not None and others[0].stat().st_size == header.data_bytes:
            return f"belongs to {others[0].name}"
    return None


def data_files(header: EnviHeader) -> list[Path]:
    """Files that a header may describe, the best first: those of its size, then by suffix."""
    if header.path is None:
        return []
    folder, stem = header.path.parent, header.path.stem
    try:
        beside = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() not in _NO_DATA_SUFFIXES]
    except OSError:
        return []
    exact = [path for path in beside if path.name.lower() == stem.lower()]
    alike = [path for path in beside if path.stem.lower() == stem.lower() and path not in exact]
    # A file with a header of its own (x.dat.hdr) does not need this one.
    headers = {path.name.lower() for path in folder.iterdir() if path.suffix.lower() == ".hdr"}
    alike = [path for path in alike if f"{path.name}.hdr".lower() not in headers]
    wanted = header.data_bytes

    def rank(path: Path) -> tuple[bool, bool, bool, int, str]:
        suffix = path.suffix.lower()
        place = DATA_SUFFIXES.index(suffix) if suffix in DATA_SUFFIXES else len(DATA_SUFFIXES)
        misfit = wanted is not None and path.stat().st_size != wanted
        return misfit, path not in exact, path.stem != stem, place, path.name

    return sorted([*exact, *alike], key=rank)


def data_file(path: Path) -> Path:
    """Return the data file that belongs to an ENVI header, or the path itself when it is no header.

    Raises
    ------
    InputError
        There is no such file, or no data file beside the header.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", hint="Check the path.")
    if path.suffix.lower() != ".hdr":
        return path
    found = data_files(EnviHeader(path, parse_header(path) or {}))
    if not found:
        raise InputError(
            f"{path}: there is no data file beside this ENVI header.", hint="Copy both files to one folder."
        )
    return found[0]


def check_numbers(header: EnviHeader, data: Path) -> None:
    """Make sure that a header says how the samples are stored, and that the numbers of its ``map info`` are numbers.

    GDAL takes bytes for granted where no data type is named, and 0 for what it cannot read of a position.

    Raises
    ------
    InputError
        Something is missing, or no number.
    """
    for name in ("samples", "lines", "bands", "data type") if header.path is not None else ():
        if header.number(name) is None:
            raise InputError(
                f"{data}: the header {header.path.name if header.path else ''} does not say '{name}' in a number.",
                hint="Restore the header: without it nobody knows how the samples are stored.",
            )
    listed = header.entries.get("map info", "").strip("{} ")
    if header.path is None or not listed:
        return
    for text in [piece.strip() for piece in listed.split(",")][1:_MAP_NUMBERS]:
        try:
            wrong = not math.isfinite(float(text))
        except ValueError:
            wrong = True
        if wrong:
            raise InputError(
                f"{data}: 'map info' of {header.path.name} holds '{text[:40]}' where a number belongs.",
                hint="Restore the header; it lists projection, reference pixel, position and pixel size in this order.",
            )


def check_size(header: EnviHeader, data: Path) -> str | None:
    """Compare the size of a raw data file with its header; returns a warning when the file is longer.

    Raises
    ------
    InputError
        The file is shorter than its header says.
    """
    wanted, size = header.data_bytes, data.stat().st_size
    if wanted is None or header.path is None or size == wanted:
        return None
    told = f"{header.path.name} describes {wanted} bytes of data, and {data.name} has {size}"
    if size < wanted:
        raise InputError(
            f"{data}: {told}: the file is cut off, or the header belongs to another file.",
            hint="Copy both files again.",
        )
    return f"{told}: the rest was not read. Check that the header belongs to this file."
