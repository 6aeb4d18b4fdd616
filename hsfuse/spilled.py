"""Images of a whole scene that are not needed for a while, spilled to an unlinked temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Self

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
_ITEM_BYTES = 4


class SpilledImages:
    """Images on the disk, read back block by block with plain reads that no memory is held for.

    The file has no name, so nothing is left of it whatever becomes of the process.

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
        self._keep(pixels if descriptor is None else None, descriptor)

    @classmethod
    def copy_of(cls, pixels: FloatCube) -> Self:
        """Return images that stay as they are when ``pixels`` are written to."""
        images = cls(pixels)
        if images._pixels is not None:
            images._pixels = images._pixels.copy()
        return images

    @classmethod
    def to_be_written(cls, shape: tuple[int, int, int]) -> Self:
        """Return images of zeros, (image, row, col), that come block by block; see :meth:`write`."""
        images = cls.__new__(cls)
        images.shape = shape
        size = int(np.prod(shape)) * _ITEM_BYTES
        descriptor = _room(lambda empty: os.ftruncate(empty, size)) if size >= _WORTH_BYTES else None
        images._keep(np.zeros(shape, np.float32) if descriptor is None else None, descriptor)
        return images

    def _keep(self, pixels: FloatCube | None, descriptor: int | None) -> None:
        """Hold the images in memory or in a file."""
        self._pixels, self._descriptor = pixels, descriptor
        self._close = None if descriptor is None else weakref.finalize(self, os.close, descriptor)

    def write(self, block: Slice2D, pixels: NDArray[np.floating]) -> None:
        """Set a block of all images, shape (image, row, col); by one thread at a time."""
        if self._descriptor is not None:
            try:
                self._write_at(self._descriptor, block, pixels)
                return
            except OSError as error:
                _log.debug("images are taken back into memory: %s", error)
                self._take_back()
        if self._pixels is not None:
            self._pixels[:, *block.slices] = pixels

    def _write_at(self, descriptor: int, block: Slice2D, pixels: NDArray[np.floating]) -> None:
        _, height, width = self.shape
        for index, image in enumerate(pixels):
            rows: NDArray[np.float32] = np.ascontiguousarray(image, np.float32)
            # Whole rows lie one behind the other.
            parts = [rows] if block.shape[1] == width else list(rows)
            for row, part in enumerate(parts, block.row0):
                write_at(descriptor, part, ((index * height + row) * width + block.col0) * _ITEM_BYTES)

    def _take_back(self) -> None:
        """Hold in memory what was written so far."""
        held = np.zeros(self.shape, np.float32)
        if self._descriptor is not None:
            for index, image in enumerate(held):
                read_at(self._descriptor, image, index * image.nbytes)
        if self._close is not None:
            self._close()
        self._keep(held, None)

    @property
    def whole(self) -> Slice2D:
        """All rows and columns."""
        return Slice2D(0, self.shape[1], 0, self.shape[2])

    def image(self, index: int) -> FloatCube:
        """Return a copy of a whole image, shape (row, col)."""
        found: FloatCube = self.read(self.whole, [index])[0]
        return found

    def read(self, block: Slice2D, images: Sequence[int] | None = None) -> FloatCube:
        """Return a copy of a block of some images, of all by default, shape (image, row, col)."""
        if self._pixels is not None:
            part = self._pixels[:, *block.slices]
            return part.copy() if images is None else part[list(images)]
        images = range(self.shape[0]) if images is None else images
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


def _room(fill: Callable[[int], None]) -> int | None:
    """Descriptor of an unlinked temporary file that ``fill`` has written to; None where there cannot be one."""
    if not hasattr(os, "preadv"):  # Windows
        return None
    try:
        with tempfile.TemporaryFile(prefix="hsfuse-", buffering=0) as file:
            fill(file.fileno())
            return os.dup(file.fileno())
    except OSError as error:
        # A full disk costs memory, not the run.
        _log.debug("images are kept in memory: %s", error)
        return None


def _written(pixels: FloatCube) -> int | None:
    """Descriptor of such a file that holds the pixels."""

    def fill(descriptor: int) -> None:
        # Side by side: most of the time goes into finding memory for the file's pages.
        def write(index: int) -> None:
            image = np.ascontiguousarray(pixels[index], np.float32)
            write_at(descriptor, image, index * image.nbytes)

        do_all(write, range(len(pixels)), threads_for(_MOST_THREADS))

    return _room(fill)
