"""Decoded blocks of a slow image format, kept in a nameless file.

A scene is looked at several times: to align it, to learn from it, to fuse it, to judge it. Decoding JPEG 2000 is by
far the most expensive part of that, and GDAL's cache in memory is too small for a large scene. So each block is
decoded once and read back from the disk afterwards, with plain reads that no memory is held for.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from hsfuse.array_io import read_at, write_at
from hsfuse.grid import Slice2D
from hsfuse.log import get_logger
from hsfuse.readers.decoder import decoder_warnings_are_errors

_log = get_logger(__name__)

_MAX_BLOCK_BYTES = 32 << 20
"""Larger blocks (images without tiles) are left to GDAL."""
_MIN_FLAT_PX = 64
_FULL_SHARE = 0.99
_DONE = threading.Event()
_DONE.set()


class ScratchLayer:
    """The first band of an image, block by block. Threads may share it, each with a dataset of its own.

    Parameters
    ----------
    file
        Open dataset; only its shape is looked at.

    Attributes
    ----------
    flat
        Number that a decoded block consists of, by row and column of the block, where it is the same throughout.
    full
        Decoded blocks with hardly a 0 in them.
    """

    def __init__(self, file: DatasetReader) -> None:
        self._height, self._width = file.shape
        self._rows, self._cols = file.block_shapes[0]
        self._dtype = np.dtype(file.dtypes[0])
        count = -(-self._height // self._rows), -(-self._width // self._cols)
        self._known = np.zeros(count, bool)
        self.flat: dict[tuple[int, int], int] = {}
        self.full: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._decoding: dict[tuple[int, int], threading.Event] = {}
        self._block_bytes = self._rows * self._cols * self._dtype.itemsize
        self._file: IO[bytes] | None = None
        self._usable = self._block_bytes <= _MAX_BLOCK_BYTES

    @staticmethod
    def pays(file: DatasetReader) -> bool:
        """Whether decoding is so slow that keeping the result pays."""
        return bool(file.driver.startswith("JP2"))

    def read(self, file: DatasetReader, block: Slice2D) -> NDArray[Any]:
        """Read a block of the image, shape (row, col); decodes what was not asked for before."""
        if not self._usable:
            return np.asarray(file.read(1, window=block.window))
        out = np.empty(block.shape, self._dtype)
        for i in range(block.row0 // self._rows, -(-block.row1 // self._rows)):
            for j in range(block.col0 // self._cols, -(-block.col1 // self._cols)):
                row0, col0 = i * self._rows, j * self._cols
                inside = Slice2D(
                    max(block.row0, row0), min(block.row1, row0 + self._rows),
                    max(block.col0, col0), min(block.col1, col0 + self._cols),
                )  # fmt: skip
                target = out[
                    inside.row0 - block.row0 : inside.row1 - block.row0,
                    inside.col0 - block.col0 : inside.col1 - block.col0,
                ]
                target[:] = self._part(file, i, j, inside)[:, inside.col0 - col0 : inside.col1 - col0]
        return out

    def blocks(self, block: Slice2D) -> list[tuple[int, int]]:
        """Row and column of the stored blocks under a block of the image; none where they are not kept."""
        if not self._usable:
            return []
        return [
            (i, j)
            for i in range(block.row0 // self._rows, -(-block.row1 // self._rows))
            for j in range(block.col0 // self._cols, -(-block.col1 // self._cols))
        ]

    def prepare(self, file: DatasetReader, i: int, j: int) -> None:
        """Decode a stored block, unless that was done, or another thread does it."""
        if self._usable and self._claim(i, j) is None:
            self._decode(file, i, j)

    def _claim(self, i: int, j: int) -> threading.Event | None:
        """None: the block is the caller's to decode. Else what is set as soon as it is known."""
        with self._lock:
            if self._known[i, j]:
                return _DONE
            if (i, j) in self._decoding:
                return self._decoding[i, j]
            self._decoding[i, j] = threading.Event()
            return None

    def _part(self, file: DatasetReader, i: int, j: int, inside: Slice2D) -> NDArray[Any]:
        """Rows of ``inside`` over the whole width of a stored block."""
        first, count = inside.row0 - i * self._rows, inside.shape[0]
        decoding = self._claim(i, j)
        if decoding is not None:
            decoding.wait()
            rows = self._kept(i, j, first, count)
            if rows is not None:
                return rows
            # Neither decoded by the other thread nor kept by the disk.
            return self._decoded(file, i, j)[first : first + count]
        return self._decode(file, i, j)[first : first + count]

    def _kept(self, i: int, j: int, first: int, count: int) -> NDArray[Any] | None:
        if not self._known[i, j] or self._file is None:
            return None
        wide = min(self._cols, self._width - j * self._cols)
        rows = np.empty((count, wide), self._dtype)
        offset = self._place(i, j) + first * wide * self._dtype.itemsize
        return rows if read_at(self._file.fileno(), rows, offset) else None

    def _place(self, i: int, j: int) -> int:
        return int((i * self._known.shape[1] + j) * self._block_bytes)

    def _decoded(self, file: DatasetReader, i: int, j: int) -> NDArray[Any]:
        row0, col0 = i * self._rows, j * self._cols
        window = Window(col0, row0, min(self._cols, self._width - col0), min(self._rows, self._height - row0))
        with decoder_warnings_are_errors():
            return np.ascontiguousarray(file.read(1, window=window))

    def _decode(self, file: DatasetReader, i: int, j: int) -> NDArray[Any]:
        """Decode and keep a block that the caller has claimed."""
        try:
            decoded = self._decoded(file, i, j)
            self._look_at(decoded, i, j)
            self._known[i, j] = self._keep(decoded, self._place(i, j))
        finally:
            with self._lock:
                self._decoding.pop((i, j)).set()
        return decoded

    def _look_at(self, decoded: NDArray[Any], i: int, j: int) -> None:
        if min(decoded.shape) < _MIN_FLAT_PX:
            return
        if decoded.min() == decoded.max():
            self.flat[i, j] = int(decoded[0, 0])
        elif np.count_nonzero(decoded) >= _FULL_SHARE * decoded.size:
            self.full.add((i, j))

    def _keep(self, decoded: NDArray[Any], place: int) -> bool:
        try:
            with self._lock:
                if not self._usable:
                    return False
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="hsfuse-", buffering=0)  # noqa: SIM115 - see close()
            write_at(self._file.fileno(), decoded, place)
        except OSError as error:
            # A full disk costs time, not the run.
            _log.debug("decoded images are not kept: %s", error)
            self._give_up()
            return False
        return True

    def _give_up(self) -> None:
        """Give the disk space back, while other threads may still read."""
        with self._lock:
            self._usable = False
            self._known[:] = False
            if self._file is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        """Give the disk space back; no other thread may use the layer any more."""
        self._known[:] = False
        if self._file is not None:
            self._file.close()
            self._file = None
