"""What simulated sensors hand to the writers of products: blocks of whole rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError


class CubeBlock(NamedTuple):
    """Rows of a cube, from ``row0`` on, over the whole width.

    ``reflectance`` is float32 (band, row, col) in the order of the layout's bands, NaN where a sample failed.
    ``error_codes`` are uint8 of the same shape (see ``ERROR_*`` of :mod:`hsfuse.readers.base`); without them, NaN
    inside the footprint is coded 1 (invalid), values below zero 2 (negative) and values above the scale's maximum 4
    (saturated). ``valid`` (row, col) is the imaged footprint; without it, every pixel with at least one finite band.
    ``cloud`` and ``shadow`` (row, col) are what the producer's own masks would mark; None: a clear sky.
    """

    row0: int
    reflectance: NDArray[np.float32]
    error_codes: NDArray[np.uint8] | None = None
    valid: NDArray[np.bool_] | None = None
    cloud: NDArray[np.bool_] | None = None
    shadow: NDArray[np.bool_] | None = None

    @property
    def footprint(self) -> NDArray[np.bool_]:
        """The imaged footprint, shape (row, col)."""
        return self.valid if self.valid is not None else np.asarray(np.isfinite(self.reflectance).any(axis=0))


class PanBlock(NamedTuple):
    """Rows of the panchromatic image from ``row0`` on: float32 (row, col), NaN where there is no data."""

    row0: int
    reflectance: NDArray[np.float32]


def check_block(block: CubeBlock, bands: int, shape: tuple[int, int]) -> slice:
    """Return the rows that a block covers.

    Raises
    ------
    UsageError
        It does not fit a product of so many bands, rows and columns.
    """
    rows, cols = shape
    count = block.reflectance.shape[1]
    if block.reflectance.shape != (bands, count, cols) or not 0 <= block.row0 <= rows - count:
        raise UsageError(
            f"A block of shape {block.reflectance.shape} at row {block.row0} does not fit a product of "
            f"{bands} bands, {rows} rows and {cols} columns."
        )
    return slice(block.row0, block.row0 + count)


def check_complete(written: NDArray[np.int64], what: str) -> None:
    """Raise :class:`UsageError` unless every row was written once."""
    if (written == 1).all():
        return
    row = int(np.flatnonzero(written != 1)[0])
    raise UsageError(f"The blocks of the {what} leave row {row} " + ("out." if written[row] == 0 else "written twice."))
