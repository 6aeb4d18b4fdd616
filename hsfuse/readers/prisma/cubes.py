"""The stored PRISMA L2 cubes: windows of reflectance, error bits and footprint, in stored rows and columns.

Both cubes are contiguous (row, band slot, col) datasets. A window is read in chunks of rows that stay in the
processor's cache: one pass turns a chunk from uint16 into float32 reflectance, in band order, while it is warm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.parallel import do_all, threads_for
from hsfuse.readers.base import ERROR_INVALID_L1, BoolArray, FloatCube
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.prisma.file import ORDER_HINT, He5File
from hsfuse.readers.prisma.header import ANGLES, DETECTORS
from hsfuse.spectral import BandTable

CHUNK_BYTES = 4 << 20
MERGE_GAP = 4
"""Slots between two wanted ones that are cheaper to read along than to skip."""
PROBES_NM = (490.0, 560.0, 665.0, 780.0, 865.0, 1050.0, 1250.0, 1650.0, 2200.0)
"""Wavelengths without strong absorption; a pixel that is empty at all of them is looked at closely."""
_MOST_THREADS, _WORTH_THREADS = 4, 4_000_000
"""Samples of a window that are worth threads."""


@dataclass(frozen=True)
class Encoding:
    """How a level stores what it measured.

    Attributes
    ----------
    errors
        End of the name of the error matrices.
    zero_is_empty
        Whether DN 0 means no data (in L1 it is a small radiance).
    scale
        Value of DN 0 and of one DN step, by detector.
    factor
        From that value to reflectance, for each band offered; None where it is reflectance already.
    bits
        Error bits (see ``ERROR_*``) of each code of the error matrices; None where codes are bits already.
    """

    errors: str
    zero_is_empty: bool
    scale: Mapping[str, tuple[float, float]]
    factor: NDArray[np.float32] | None = None
    bits: NDArray[np.uint8] | None = None


class _Stored(NamedTuple):
    """Some rows of a run of bands as they are stored: numbers and error codes, shape (row, slot, col)."""

    scale: tuple[np.float32, np.float32]
    run: list[int]
    first: int
    rows: slice
    numbers: NDArray[np.integer]
    codes: NDArray[np.integer] | None


class PrismaCubes:
    """Reads windows of the two cubes of one product.

    Parameters
    ----------
    file
        The open product; it stays the caller's.
    group
        Swath group, such as ``HDFEOS/SWATHS/PRS_L2D_HCO``.
    bands
        Bands offered, with detector and slot.
    encoding
        How the level stores its numbers.

    Raises
    ------
    InputError
        A cube is missing or does not fit the band lists or the other datasets.
    """

    def __init__(self, file: He5File, group: str, bands: BandTable, encoding: Encoding) -> None:
        self._file, self._encoding = file, encoding
        self.bands = bands
        self._cubes: dict[str, h5py.Dataset] = {}
        self._errors: dict[str, h5py.Dataset] = {}
        self._scale: dict[str, tuple[np.float32, np.float32]] = {}
        shapes = set()
        for detector in DETECTORS:
            name = f"{group}/Data Fields/{detector}_Cube"
            cube = self._cubes[detector] = file.dataset(name, ndim=3)
            listed = file.vector(f"List_Cw_{detector.capitalize()}").size
            if cube.dtype != np.uint16 or cube.shape[1] != listed:
                raise InputError(
                    f"{file.path}: '{name}' is {cube.dtype} with shape {cube.shape}; expected uint16 as (row, band, "
                    f"col) with {listed} bands.",
                    hint=ORDER_HINT,
                )
            low, step = encoding.scale[detector]
            self._scale[detector] = np.float32(low), np.float32(step)
            shapes.add((cube.shape[0], cube.shape[2]))
            errors = f"{group}/Data Fields/{detector}_{encoding.errors}"
            if file.has(errors):
                self._errors[detector] = file.dataset(errors, ndim=3)
                if self._errors[detector].shape != cube.shape:
                    raise InputError(f"{file.path}: '{errors}' does not have the shape of its cube.", hint=ORDER_HINT)
        if len(shapes) != 1 or min(next(iter(shapes))) < 1:
            raise InputError(f"{file.path}: the VNIR and SWIR cubes differ in size ({shapes}).", hint=ORDER_HINT)
        self.shape: tuple[int, int] = next(iter(shapes))
        self._angles = self._open_angles(f"{group}/Geometric Fields")
        self._footprint = np.zeros(self.shape, dtype=np.bool_)
        self._known = np.zeros(self.shape[0], dtype=np.bool_)

    def _open_angles(self, group: str) -> list[h5py.Dataset]:
        angles = []
        for name in ANGLES:
            if self._file.has(f"{group}/{name}"):
                angles.append(self._file.dataset(f"{group}/{name}", ndim=2))
                if angles[-1].shape != self.shape:
                    raise InputError(
                        f"{self._file.path}: '{group}/{name}' has {angles[-1].shape} pixels, the cubes {self.shape}.",
                        hint=ORDER_HINT,
                    )
        return angles

    @property
    def has_errors(self) -> bool:
        """Whether both error matrices are there."""
        return len(self._errors) == len(DETECTORS)

    @property
    def has_angles(self) -> bool:
        """Whether any angle field is there."""
        return bool(self._angles)

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, shape (band, row, col); NaN for DN 0 and for samples invalid already in L1."""
        wanted = self._wanted(block, bands)
        out = np.empty((wanted.size, *block.shape), dtype=np.float32)
        threads = threads_for(_MOST_THREADS) if out.size >= _WORTH_THREADS else 1

        def stored() -> Iterator[_Stored]:
            for detector, run, first, last in self._runs(wanted):
                errors = self._errors.get(detector)
                for rows, numbers in self._chunks(self._cubes[detector], block, first, last, threads):
                    codes = None if errors is None else self._load(errors, block, rows, first, last)
                    yield _Stored(self._scale[detector], run, first, rows, numbers, codes)

        do_all(lambda part: self._decode(part, wanted, out), stored(), threads)
        return out

    def _decode(self, part: _Stored, wanted: NDArray[np.int64], out: FloatCube) -> None:
        """Turn stored numbers into reflectance, written to their place in ``out``."""
        (low, step), codes = part.scale, None if part.codes is None else self._bits(part.codes)
        if codes is not None and not (codes & ERROR_INVALID_L1).any():
            codes = None
        for index in part.run:
            slot = self.bands.slot[wanted[index]] - part.first
            stored, target = part.numbers[:, slot], out[index, part.rows]
            np.multiply(stored, step, out=target, dtype=np.float32)
            if low != 0:
                target += low
            if self._encoding.factor is not None:
                target *= self._encoding.factor[wanted[index]]
            empty = (stored == 0) & self._encoding.zero_is_empty
            if codes is not None:
                empty |= (codes[:, slot] & ERROR_INVALID_L1).astype(np.bool_)
            np.copyto(target, np.float32(np.nan), where=empty)

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:
        """Read the error bits, shape (band, row, col); None without error matrices."""
        if not self.has_errors:
            return None
        wanted = self._wanted(block, bands)
        out = np.empty((wanted.size, *block.shape), dtype=np.uint8)
        for detector, run, first, last in self._runs(wanted):
            for rows, stored in self._chunks(self._errors[detector], block, first, last):
                codes = self._bits(stored)
                for index in run:
                    out[index, rows] = codes[:, self.bands.slot[wanted[index]] - first]
        return out

    def _bits(self, codes: NDArray[np.integer]) -> NDArray[np.integer]:
        """Error bits of stored codes."""
        return codes if self._encoding.bits is None else self._encoding.bits[np.minimum(codes, 255)]

    def footprint(self, block: Slice2D) -> BoolArray:
        """Pixels that were imaged, shape (row, col): some angle is not 0 and some band is not 0."""
        rows = np.arange(block.row0, block.row1)[~self._known[block.row0 : block.row1]]
        if rows.size:
            self._find_footprint(int(rows[0]), int(rows[-1]) + 1)
        return self._footprint[block.slices].copy()

    def mean_angle(self, name: str) -> float | None:
        """Mean of an angle field over the imaged pixels, degrees; None when the field is not there."""
        for dataset in self._angles:
            if dataset.name.endswith(f"/{name}"):
                values = self._file.read(dataset, slice(None))
                inside = np.isfinite(values) & (values != 0)
                return float(values[inside].mean(dtype=np.float64)) if inside.any() else None
        return None

    def _wanted(self, block: Slice2D, bands: BandIndex) -> NDArray[np.int64]:
        check_block(block, self.shape)
        return band_index(bands, len(self.bands))

    def _runs(self, wanted: NDArray[np.int64]) -> Iterator[tuple[str, list[int], int, int]]:
        """Group wanted bands whose slots lie close together: detector, their places, first and last slot + 1."""
        for detector in DETECTORS:
            mine = [i for i, band in enumerate(wanted) if self.bands.detector[band] == detector]
            mine.sort(key=lambda i: int(self.bands.slot[wanted[i]]))
            run: list[int] = []
            for i in mine:
                if run and self.bands.slot[wanted[i]] - self.bands.slot[wanted[run[-1]]] > MERGE_GAP:
                    yield detector, run, *self._span(wanted, run)
                    run = []
                run.append(i)
            if run:
                yield detector, run, *self._span(wanted, run)

    def _span(self, wanted: NDArray[np.int64], run: list[int]) -> tuple[int, int]:
        return int(self.bands.slot[wanted[run[0]]]), int(self.bands.slot[wanted[run[-1]]]) + 1

    def _chunks(
        self, dataset: h5py.Dataset, block: Slice2D, first: int, last: int, threads: int = 1
    ) -> Iterator[tuple[slice, NDArray[np.integer]]]:
        """Read slots ``[first, last)`` of a block a few rows at a time: rows within the block, (row, slot, col).

        Chunks for several threads are smaller, since as many exist at a time.
        """
        step = max(1, CHUNK_BYTES // threads // (block.shape[1] * (last - first) * dataset.dtype.itemsize))
        for row in range(0, block.shape[0], step):
            rows = slice(row, min(row + step, block.shape[0]))
            yield rows, self._load(dataset, block, rows, first, last)

    def _load(self, dataset: h5py.Dataset, block: Slice2D, rows: slice, first: int, last: int) -> NDArray[np.integer]:
        stored = slice(block.row0 + rows.start, block.row0 + rows.stop)
        return self._file.read(dataset, (stored, slice(first, last), slice(block.col0, block.col1)))

    def _find_footprint(self, row0: int, row1: int) -> None:
        width = self.shape[1]
        inside = (
            np.ones((row1 - row0, width), dtype=np.bool_) if not self._angles else np.zeros((row1 - row0, width), bool)
        )
        for dataset in self._angles:
            angle = self._file.read(dataset, slice(row0, row1))
            inside |= np.isfinite(angle) & (angle != 0)
        block = Slice2D(row0, row1, 0, width)
        probes = np.unique(self.bands.nearest(PROBES_NM))
        empty = inside & ~self._any_data(block, probes)
        for row in np.flatnonzero(empty.any(axis=1)):
            line = Slice2D(row0 + int(row), row0 + int(row) + 1, 0, width)
            inside[row] &= self._any_data(line, np.arange(len(self.bands)))[0] | ~empty[row]
        self._footprint[row0:row1] = inside
        self._known[row0:row1] = True

    def _any_data(self, block: Slice2D, bands: NDArray[np.int64]) -> BoolArray:
        """Pixels with a DN other than 0 in at least one of some bands, shape (row, col)."""
        found = np.zeros(block.shape, dtype=np.bool_)
        for detector, run, first, last in self._runs(bands):
            slots = [int(self.bands.slot[bands[i]]) - first for i in run]
            for rows, numbers in self._chunks(self._cubes[detector], block, first, last):
                found[rows] |= (numbers[:, slots] != 0).any(axis=1)
        return found
