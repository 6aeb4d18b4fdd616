"""Find products in folders and read their headers, whatever the sensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hsfuse.errors import InputError
from hsfuse.log import get_logger
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.entry import LIKELY, READERS, OpenOptions, ReaderEntry, Role
from hsfuse.readers.product_header import ProductHeader

_log = get_logger(__name__)


def read_header(path: Path, role: Role) -> ProductHeader:
    """Read where and when a product was taken; it is opened where its reader has no quicker way.

    Raises
    ------
    InputError, OverlapError
        No reader knows the path, or the product cannot be read.
    """
    reader = choose_reader(path, role)
    if reader.header is not None:
        return reader.header(path)
    product = reader.open(path, OpenOptions(role=role))
    try:
        info = product.info
        cloud = info.attributes.get("cloud_percent")
        return ProductHeader(path, info.name, (product.grid,), info.start, cloud, info.level)
    finally:
        product.close()


def find_products(folder: Path, role: Role) -> Iterator[Path]:
    """List the products of a role in a folder and below: those that a reader is sure of, in the order of their names.

    Folders that are products are not searched any further; hidden ones are left out. Links are followed, each folder
    once.
    """
    readers = [entry for _, entry in READERS.entries() if role in entry.roles]
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        place = os.path.realpath(root)
        if place in seen:
            folders[:] = []
            continue
        seen.add(place)
        if any(_is_folder_product(entry, here) for entry in readers):
            yield here
            folders[:] = []
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and any(_is_sure(entry.probe, here / name) for entry in readers):
                yield here / name


def _is_folder_product(entry: ReaderEntry, folder: Path) -> bool:
    return entry.is_folder_product is not None and entry.is_folder_product(folder)


def _is_sure(probe: Callable[[Path], float], path: Path) -> bool:
    try:
        return probe(path) >= LIKELY
    except (OSError, InputError) as error:
        _log.warning("left out: %s (%s)", path, error)
        return False
    except Exception as error:
        # One bad reader of another package must not keep the others from their files.
        _log.debug("a reader failed to look at %s (%s)", path, error)
        return False
