"""What the user gives to train on, sorted into pairs and cubes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hsfuse.errors import InputError, UsageError
from hsfuse.readers.choose import likely_role


@dataclass(frozen=True)
class TrainingInput:
    """One scene given by the user: a pair (``msi`` not empty) or a cube."""

    hsi: Path
    msi: tuple[Path, ...]


def parse_inputs(paths: Sequence[Path]) -> list[TrainingInput]:
    """Sort arguments into pairs and cubes: an HSI, and the Sentinel-2 products that follow it.

    A single ``.csv`` file lists one scene a line, ``hsi,msi[;msi...]``, relative to the file; the MSI may be left
    out.

    Raises
    ------
    InputError
        A file is missing or a line cannot be understood.
    UsageError
        The list starts with an MSI.
    """
    if len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        return _read_list(paths[0])
    found: list[TrainingInput] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist.", hint="Check the path.")
        if not _is_msi(path):
            found.append(TrainingInput(path, ()))
        elif not found:
            raise UsageError(
                f"{path} is a multispectral image; the hyperspectral one comes first.",
                hint="hsfuse train-reduced PRISMA.he5 SENTINEL2.SAFE -o model.safetensors",
            )
        else:
            found[-1] = replace(found[-1], msi=(*found[-1].msi, path))
    return found


def _is_msi(path: Path) -> bool:
    # A cube of arrays is no product: `open_cube` reads it.
    return path.suffix.lower() != ".npz" and likely_role(path) == "msi"


def _read_list(path: Path) -> list[TrainingInput]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The list {path} cannot be read ({error}).", hint="Give a text file, hsi,msi a line."
        ) from error
    found = []
    for number, row in enumerate(rows, start=1):
        if not any(row) or row[0].startswith("#") or (number == 1 and row[0].lower() == "hsi"):
            continue
        if len(row) > 2 or not row[0]:
            raise InputError(f"Line {number} of {path} is not 'hsi,msi'.", hint="Several MSIs are separated by ';'.")
        msi = [part.strip() for part in row[1].split(";") if part.strip()] if len(row) == 2 else []
        files = [path.parent / name for name in (row[0], *msi)]
        for file in files:
            if not file.exists():
                raise InputError(f"{file} (line {number} of {path}) does not exist.", hint="Paths start at the list.")
        found.append(TrainingInput(files[0], tuple(files[1:])))
    if not found:
        raise InputError(f"The list {path} names no scene.", hint="Give one 'hsi,msi' a line.")
    return found
