"""How much each date shows of a pixel of a composed image.

The dates are in an order: each covers those behind it where it is clear, and fades out over some pixels towards its
clouds and its edge, so that no seam is left where the next one takes over. Weights depend on the pixel alone, never on
the window that is read; they are worked out strip by strip when first needed, and kept compressed.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.grid import Grid, Slice2D
from hsfuse.masks import BoolArray
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.sentinel2.points import CLEAR, HIDDEN, RIM, states

FEATHER_CELLS = 10
"""Width of the fading, in cells of 2 x 2 pixels: 200 m."""
FULL = 255
"""Weight of a pixel that the date covers alone; those below :data:`LEAST` are states without a share in the fading."""
LEAST = 3
"""Least weight of a clear pixel; 0: no data, 1: hidden, 2: on the rim of clouds, for want of any other date."""
_CELL_PX = 2
_STRIP_ROWS = 256
_KEPT_STRIPS = 4

Weights = NDArray[np.uint8]


class DateWeights:
    """Weights of dates on one grid. Threads may share it.

    Parameters
    ----------
    dates
        Images on the grid, the one that covers the others first; they must stay open.
    grid
        The grid.
    """

    def __init__(self, dates: Sequence[MultispectralProduct], grid: Grid) -> None:
        self._dates, self._grid = tuple(dates), grid
        self._packed: dict[int, bytes] = {}
        self._recent: OrderedDict[int, Weights] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, block: Slice2D) -> Weights:
        """Weights of a block, shape (date, row, col)."""
        out = np.empty((len(self._dates), *block.shape), np.uint8)
        for number in range(block.row0 // _STRIP_ROWS, -(-block.row1 // _STRIP_ROWS)):
            top = number * _STRIP_ROWS
            first, last = max(block.row0, top), min(block.row1, top + _STRIP_ROWS)
            strip = self._strip(number)
            out[:, first - block.row0 : last - block.row0] = strip[:, first - top : last - top, block.col0 : block.col1]
        return out

    def _strip(self, number: int) -> Weights:
        top = number * _STRIP_ROWS
        rows = Slice2D(top, min(top + _STRIP_ROWS, self._grid.height), 0, self._grid.width)
        with self._lock:
            if number in self._recent:
                self._recent.move_to_end(number)
                return self._recent[number]
            if number in self._packed:
                flat = np.frombuffer(zlib.decompress(self._packed[number]), np.uint8)
                strip = flat.reshape(len(self._dates), *rows.shape)
            else:
                strip = np.stack([date_weights(date, rows, self._grid.height) for date in self._dates])
                self._packed[number] = zlib.compress(strip.tobytes(), 1)
            self._recent[number] = strip
            if len(self._recent) > _KEPT_STRIPS:
                self._recent.popitem(last=False)
            return strip


def date_weights(date: MultispectralProduct, rows: Slice2D, height: int) -> Weights:
    """Weights of one date in full-width rows, which begin at a whole cell; shape (row, col)."""
    margin = FEATHER_CELLS * _CELL_PX
    wide = Slice2D(max(rows.row0 - margin, 0), min(rows.row1 + margin, height), rows.col0, rows.col1)
    found = states(date, wide)
    inner = found[rows.row0 - wide.row0 : rows.row1 - wide.row0]
    clear = found == CLEAR
    if clear.all():
        return np.full(rows.shape, FULL, np.uint8)
    if not (inner == CLEAR).any():
        return inner
    fading = np.minimum(scipy.ndimage.distance_transform_edt(_whole_cells(clear)), FEATHER_CELLS) / FEATHER_CELLS
    ramp = np.rint(LEAST + (FULL - LEAST) * fading).astype(np.uint8)
    fine = np.repeat(np.repeat(ramp, _CELL_PX, axis=0), _CELL_PX, axis=1)
    top = rows.row0 - wide.row0
    fine = fine[top : top + rows.shape[0], : rows.shape[1]]
    return np.where(inner == CLEAR, fine, inner)


def _whole_cells(clear: BoolArray) -> BoolArray:
    """Cells all of whose pixels are clear; beyond the last row and column, pixels are as the last ones."""
    rows, cols = clear.shape
    padded = np.pad(clear, ((0, rows % _CELL_PX), (0, cols % _CELL_PX)), mode="edge")
    cells = padded.reshape(padded.shape[0] // _CELL_PX, _CELL_PX, padded.shape[1] // _CELL_PX, _CELL_PX)
    return np.asarray(cells.all(axis=(1, 3)), dtype=np.bool_)


def shares(weights: Weights) -> NDArray[np.float32]:
    """Share of each date in each pixel, shape (date, row, col); they add up to 1 where any date has data.

    A clear date covers those behind it by its weight; what all leave open is divided among them in proportion. Where
    none is clear, the first one on the rim of its clouds is shown, else the first one with data.
    """
    out = np.zeros(weights.shape, np.float32)
    rest = np.ones(weights.shape[1:], np.float32)
    for weight, share in zip(weights, out, strict=True):
        opaque = np.maximum(weight.astype(np.float32) - np.float32(LEAST - 1), 0) / np.float32(FULL - LEAST + 1)
        np.multiply(opaque, rest, out=share)
        rest -= share
    total = out.sum(axis=0)
    shown = total > 0
    np.divide(out, total, out=out, where=shown[None])
    for state in (RIM, HIDDEN):
        if shown.all():
            break
        for weight, share in zip(weights, out, strict=True):
            fresh = ~shown & (weight == state)
            share[fresh] = 1.0
            shown |= fresh
    return out
