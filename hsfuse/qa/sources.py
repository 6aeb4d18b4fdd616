"""Cubes that quicklooks can read decimated: a product, a reader, an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.parallel import do_all, threads_for
from hsfuse.writers.format import CubeReader

FloatCube = NDArray[np.float32]

_MOST_THREADS = 4


class ImageSource(Protocol):
    """A cube that can be read decimated."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        ...

    @property
    def centre_nm(self) -> NDArray[np.float64]:
        """Centre wavelength of each band."""
        ...

    def read(self, bands: Sequence[int], block: Slice2D, out_shape: tuple[int, int] | None = None) -> FloatCube:
        """Read bands of a block, averaged down to ``out_shape``; NaN where there is no data."""
        ...


class FunctionSource:
    """Any reader as an :class:`ImageSource`: whole blocks are read a few rows at a time and averaged.

    Parameters
    ----------
    shape
        (rows, cols) of the image.
    centre_nm
        Centre wavelength of each band.
    read_block
        ``read_block(block, bands)`` returns reflectance, shape (band, row, col), NaN where there is no data.
    shared
        Several threads may call it at a time.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        centre_nm: NDArray[np.floating[Any]],
        read_block: Callable[[Slice2D, Sequence[int]], NDArray[Any]],
        *,
        shared: bool = False,
    ) -> None:
        self._shape, self._read, self._shared = shape, read_block, shared
        self._centre = np.asarray(centre_nm, dtype=np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._shape

    @property
    def centre_nm(self) -> NDArray[np.float64]:
        """Centre wavelength of each band."""
        return self._centre

    def read(self, bands: Sequence[int], block: Slice2D, out_shape: tuple[int, int] | None = None) -> FloatCube:
        """Read bands of a block, averaged down to ``out_shape``; NaN where there is no data."""
        rows, cols = block.shape
        if out_shape is None or out_shape == block.shape:
            return np.asarray(self._read(block, bands), dtype=np.float32)
        out = np.full((len(bands), *out_shape), np.nan, dtype=np.float32)
        row_edges = np.linspace(0, rows, out_shape[0] + 1).round().astype(int)
        col_edges = np.linspace(0, cols, out_shape[1] + 1).round().astype(int)
        at_once = max(1, int(256 // max(rows / out_shape[0], 1)))
        parts = [slice(top, min(top + at_once, out_shape[0])) for top in range(0, out_shape[0], at_once)]

        def read(part: slice) -> tuple[slice, FloatCube]:
            top, bottom = (block.row0 + int(row_edges[edge]) for edge in (part.start, part.stop))
            strip = Slice2D(top, bottom, block.col0, block.col1)
            return part, np.asarray(self._read(strip, bands), dtype=np.float32)

        def averaged(given: tuple[slice, FloatCube]) -> None:
            part, cube = given
            edges = row_edges[part.start : part.stop + 1] - row_edges[part.start]
            out[:, part] = _block_mean(cube, edges, col_edges)

        if self._shared:
            do_all(lambda part: averaged(read(part)), parts, threads_for(_MOST_THREADS))
        else:
            do_all(averaged, map(read, parts), threads_for(_MOST_THREADS))
        return out


class ArraySource(FunctionSource):
    """A cube in memory as an :class:`ImageSource`; shape (band, row, col), NaN where there is no data."""

    def __init__(self, cube: NDArray[np.floating[Any]], centre_nm: NDArray[np.floating[Any]]) -> None:
        super().__init__(
            (cube.shape[1], cube.shape[2]), centre_nm, lambda block, bands: cube[(list(bands), *block.slices)]
        )


class ProductSource:
    """A finished product as an :class:`ImageSource`, through its overviews where it has any.

    Parameters
    ----------
    reader
        The open product, which becomes this object's.
    centre_nm
        Centre wavelength of each band.

    Raises
    ------
    InputError
        The product has another number of bands.
    """

    def __init__(self, reader: CubeReader, centre_nm: NDArray[np.floating[Any]]) -> None:
        self._reader = reader
        self._centre = np.asarray(centre_nm, dtype=np.float64)
        if reader.shape[0] != self._centre.size:
            reader.close()
            raise InputError(f"The cube has {reader.shape[0]} bands, not the {self._centre.size} that were expected.")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._reader.shape[1:]

    @property
    def centre_nm(self) -> NDArray[np.float64]:
        """Centre wavelength of each band."""
        return self._centre

    def read(self, bands: Sequence[int], block: Slice2D, out_shape: tuple[int, int] | None = None) -> FloatCube:
        """Read bands of a block, averaged down to ``out_shape``; NaN where there is no data."""
        return self._reader.read(bands, block, out_shape)

    def close(self) -> None:
        """Close the product."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _block_mean(cube: FloatCube, row_edges: NDArray[np.int_], col_edges: NDArray[np.int_]) -> FloatCube:
    """Mean of valid samples in each cell; NaN where a cell has none."""
    present = np.isfinite(cube)
    total = np.add.reduceat(np.where(present, cube, 0.0), row_edges[:-1], axis=1)
    total = np.add.reduceat(total, col_edges[:-1], axis=2)
    count = np.add.reduceat(np.add.reduceat(present.astype(np.int32), row_edges[:-1], axis=1), col_edges[:-1], axis=2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
