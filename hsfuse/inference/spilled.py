"""Images of a whole scene that are not needed for a while, spilled to an unlinked temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref

import numpy as np
from numpy.typing import NDArray

from hsfuse.array_io import read_at, write_at
from hsfuse.grid import Slice2D
from hsfuse.log import get_logger
from hsfuse.parallel import do_all, threads_for

FloatCube = NDArray[np.float32]

_log = get_logger(__name__)
_WORTH_BYTES = 16 << 20
"""Smaller images stay in memory."""
_MOST_THREADS = 4


class SpilledImages:
    """Images on the disk, read back block by block with plain reads that no memory is held for.

    They stay in memory where they are small, and where the disk has no room or the system no such reads.

    Parameters
    ----------
    pixels
        Shape (image, row, col), contiguous; not copied where they stay in memory.

    Attributes
    ----------
    shape
        (image, row, col).
    """

    def __init__(self, pixels: FloatCube) -> None:
        self.shape: tuple[int, int, int] = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        descriptor = _written(pixels) if pixels.nbytes >= _WORTH_BYTES else None
        self._pixels = pixels if descriptor is None else None
        self._descriptor = descriptor
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)

    def image(self, index: int) -> FloatCube:
        """Return a copy of a whole image, shape (row, col)."""
        found: FloatCube = self.read(Slice2D(0, self.shape[1], 0, self.shape[2]), [index])[0]
        return found

    def read(self, block: Slice2D, images: list[int]) -> FloatCube:
        """Return a copy of a block of some images, shape (image, row, col)."""
        if self._pixels is not None:
            return np.array(self._pixels[images, *block.slices])
        _, height, width = self.shape
        found = np.empty((len(images), *block.shape), np.float32)
        rows = None if block.shape[1] == width else np.empty((block.shape[0], width), np.float32)
        for target, index in zip(found, images, strict=True):
            # Whole rows: one read, which costs less than one for the part of each row.
            self._read_into(target if rows is None else rows, (index * height + block.row0) * width)
            if rows is not None:
                target[...] = rows[:, block.col0 : block.col1]
        return found

    def _read_into(self, rows: FloatCube, first: int) -> None:
        """Read samples from the ``first`` on."""
        if self._descriptor is None:
            raise ValueError("images in memory are not read")
        if not read_at(self._descriptor, rows, first * rows.itemsize):
            raise OSError("a temporary file was cut short")


def _written(pixels: FloatCube) -> int | None:
    """Descriptor of an unlinked temporary file that holds the pixels; None where there cannot be one."""
    if not hasattr(os, "preadv"):  # Windows
        return None
    try:
        with tempfile.TemporaryFile(prefix="hsfuse-", buffering=0) as file:
            # Side by side: most of the time goes into finding memory for the file's pages.
            def write(index: int) -> None:
                image = np.ascontiguousarray(pixels[index], np.float32)
                write_at(file.fileno(), image, index * image.nbytes)

            do_all(write, range(len(pixels)), threads_for(_MOST_THREADS))
            return os.dup(file.fileno())
    except OSError as error:
        # A full disk costs memory, not the run.
        _log.debug("images are kept in memory: %s", error)
        return None
