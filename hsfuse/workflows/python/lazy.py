"""Variables of a product that are read when they are looked at: windows and bands, never more than was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from xarray.backends import BackendArray, CachingFileManager
from xarray.backends.locks import SerializableLock
from xarray.core import indexing

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.entry import BandChoice, OpenOptions, Role

Product = HyperspectralProduct | MultispectralProduct
Read = Callable[[Any, Slice2D, list[int]], NDArray[Any]]
"""``read(product, block, bands)`` returns (band, row, col), or (row, col) for what has no bands."""

_AT_ONCE = 1 << 25
"""Samples that are read in one go where only some of the rows are wanted."""


def open_product_as(path: str, role: Role, bands: BandChoice, cut_nm: float, mode: str = "r") -> Product:  # noqa: ARG001
    """Open a product in the role that was found for it; also in another process."""
    file = Path(path)
    return choose_reader(file, role).open(file, OpenOptions(role=role, bands=bands, cut_nm=cut_nm))


class LazyArray(BackendArray):
    """A variable of a product for xarray.

    Parameters
    ----------
    manager
        Opens the product where it is needed, also in a process that the array was sent to.
    read
        How a block is read; a function of a module, for the same reason.
    lock
        Of the product: its variables are read one after the other.
    shape, dtype
        Of the whole: (band, row, col) or (row, col).
    """

    def __init__(
        self,
        manager: CachingFileManager[Any],
        lock: SerializableLock,
        read: Read,
        shape: tuple[int, ...],
        dtype: DTypeLike,
    ) -> None:
        self._manager, self._lock, self._read = manager, lock, read
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read what an outer index picks on each axis: a number, a slice, or a list of positions."""
        axes = [np.atleast_1d(np.arange(size)[part]) for part, size in zip(key, self.shape, strict=True)]
        out = np.empty([axis.size for axis in axes], self.dtype)
        if out.size:
            with self._lock, self._manager.acquire_context(needs_lock=False) as product:
                self._fill(out, product, axes)
        squeezed = tuple(0 if np.ndim(part) == 0 and not isinstance(part, slice) else slice(None) for part in key)
        return np.asarray(out[squeezed])

    def _fill(self, out: NDArray[Any], product: Product, axes: list[NDArray[np.int64]]) -> None:
        *bands, rows, cols = axes
        wanted, place = np.unique(bands[0], return_inverse=True) if bands else (np.zeros(1, np.int64), None)
        width = int(cols.max()) - int(cols.min()) + 1
        for part in _groups(rows, max(_AT_ONCE // (width * wanted.size), 1)):
            some = rows[part]
            block = Slice2D(int(some.min()), int(some.max()) + 1, int(cols.min()), int(cols.max()) + 1)
            cube = self._read(product, block, [int(band) for band in wanted])
            inside = np.ix_(some - block.row0, cols - block.col0)
            if place is None:
                out[part] = cube[inside]
            else:
                out[:, part] = cube[:, inside[0], inside[1]][place]


def _groups(rows: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Cut rows, which may stand in any order, into runs whose extent is at most so many rows."""
    start = 0
    while start < rows.size:
        end = start + 1
        while end < rows.size and np.ptp(rows[start : end + 1]) < most:
            end += 1
        yield slice(start, end)
        start = end


def role_and_product(path: Path, bands: BandChoice, cut_nm: float, role: Role | None) -> tuple[Role, Product]:
    """Open a product as what it most likely is.

    Raises
    ------
    InputError
        No reader can read it.
    """
    from hsfuse.readers.choose import likely_role

    first: Role = role or likely_role(path)
    try:
        return first, open_product_as(str(path), first, bands, cut_nm)
    except InputError:
        other: Role = "msi" if first == "hsi" else "hsi"
        if role is not None or other not in choose_reader(path, first).roles:
            raise
        try:
            return other, open_product_as(str(path), other, bands, cut_nm)
        except InputError:
            pass
        raise
