"""Decoded blocks of a slow image format, kept in a nameless file.

A scene is looked at several times: to align it, to learn from it, to fuse it, to judge it. Decoding JPEG 2000 is by
far the most expensive part of that, and GDAL's cache in memory is too small for a large scene. So each block is
decoded once and read back from the disk afterwards, with plain reads that no memory is held for.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from hsfuse.grid import Slice2D
from hsfuse.log import get_logger

_log = get_logger(__name__)

_MAX_BLOCK_BYTES = 32 << 20
"""Larger blocks (images without tiles) are left to GDAL."""


def _bytes_of(array: NDArray[Any]) -> memoryview:
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


class ScratchLayer:
    """The first band of an image, block by block. Use from one thread at a time.

    Parameters
    ----------
    file
        Open dataset; only its shape is looked at.
    """

    def __init__(self, file: DatasetReader) -> None:
        self._height, self._width = file.shape
        self._rows, self._cols = file.block_shapes[0]
        self._dtype = np.dtype(file.dtypes[0])
        count = -(-self._height // self._rows), -(-self._width // self._cols)
        self._known = np.zeros(count, bool)
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

    def _part(self, file: DatasetReader, i: int, j: int, inside: Slice2D) -> NDArray[Any]:
        """Rows of ``inside`` over the whole width of a stored block."""
        row0, col0 = i * self._rows, j * self._cols
        wide = min(self._cols, self._width - col0)
        first, count = inside.row0 - row0, inside.shape[0]
        place = (i * self._known.shape[1] + j) * self._block_bytes
        if self._known[i, j] and self._file is not None:
            rows = np.empty((count, wide), self._dtype)
            view = _bytes_of(rows)
            offset = place + first * wide * self._dtype.itemsize
            while view:
                got = os.preadv(self._file.fileno(), [view], offset)
                if got == 0:
                    break
                view, offset = view[got:], offset + got
            if not view:
                return rows
        high = min(self._rows, self._height - row0)
        decoded = np.ascontiguousarray(file.read(1, window=Window(col0, row0, wide, high)))
        self._known[i, j] = self._keep(decoded, place)
        return decoded[first : first + count]

    def _keep(self, decoded: NDArray[Any], place: int) -> bool:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="hsfuse-", buffering=0)  # noqa: SIM115 - closed by close()
            view = _bytes_of(decoded)
            while view:
                written = os.pwrite(self._file.fileno(), view, place)
                view, place = view[written:], place + written
        except OSError as error:
            # A full disk costs time, not the run.
            _log.debug("decoded images are not kept: %s", error)
            self.close()
            self._usable = False
            return False
        return True

    def close(self) -> None:
        """Give the disk space back."""
        self._known[:] = False
        if self._file is not None:
            self._file.close()
            self._file = None
