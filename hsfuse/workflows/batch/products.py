"""Find products in folders and archives, and read of each only what pairing needs: place, time, cloud."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hsfuse.errors import HsfuseError, InputError
from hsfuse.readers.entry import Role
from hsfuse.readers.find import find_products, read_header
from hsfuse.readers.given_path import given_path
from hsfuse.readers.product_header import ProductHeader
from hsfuse.workflows.batch.jobs import product_stem

_READERS = 8
_NOUNS: dict[Role, str] = {"hsi": "hyperspectral", "msi": "Sentinel-2", "pan": "panchromatic"}


@dataclass(frozen=True)
class Unreadable:
    """A product that cannot be read, and why."""

    path: Path
    error: HsfuseError


def expand(arguments: Sequence[str | Path], what: str) -> list[Path]:
    """Resolve globs that the shell left alone.

    Raises
    ------
    InputError
        A path does not exist, or a pattern matches nothing.
    """
    found: list[Path] = []
    for argument in (str(given_path(argument)) for argument in arguments):
        if Path(argument).exists():
            found.append(Path(argument).absolute())
            continue
        if not glob.has_magic(argument):
            raise InputError(f"{argument} does not exist.", hint=f"Check the path of the {what}.")
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise InputError(f"Nothing matches {argument}.", hint=f"Check the pattern of the {what}.")
        found += [Path(match).absolute() for match in matches]
    return list(dict.fromkeys(found))


def find_all(paths: Iterable[Path], role: Role) -> list[Path]:
    """List products: files and product folders as given, in other folders everything that a reader is sure of.

    Raises
    ------
    InputError
        A folder holds none.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = list(find_products(path, role)) if path.is_dir() else [path]
        if not inside:
            raise InputError(
                f"{path} holds no {_NOUNS[role]} product.",
                hint='Name other rasters one by one or with a pattern in quotes, such as "cubes/*.tif".',
            )
        for product in inside:
            # The same product may lie in a folder twice, packed and unpacked: the unpacked one is faster.
            key = str(product.parent / product_stem(product))
            if key not in found or found[key].suffix.lower() == ".zip":
                found[key] = product
    return list(dict.fromkeys(found.values()))


def read_headers(
    hsi: Sequence[Path], msi: Sequence[Path]
) -> tuple[list[ProductHeader | Unreadable], list[ProductHeader | Unreadable]]:
    """Read all headers, several at a time: most of it is waiting for disks."""

    def read(path: Path, role: Role) -> ProductHeader | Unreadable:
        try:
            return read_header(path, role)
        except HsfuseError as error:
            return Unreadable(path, error)

    with ThreadPoolExecutor(_READERS, thread_name_prefix="hsfuse-headers") as pool:
        first = [pool.submit(read, path, "hsi") for path in hsi]
        second = [pool.submit(read, path, "msi") for path in msi]
        return [future.result() for future in first], [future.result() for future in second]
