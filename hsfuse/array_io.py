"""Arrays read from and written to open files as they are, in plain calls that may be cut short."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_at(handle: int, array: NDArray[Any], offset: int) -> bool:
    """Fill a contiguous array from a place in a file, which other threads may read too; False where it ends early."""
    view = _bytes_of(array)
    while view:
        count = os.preadv(handle, [view], offset)
        if count == 0:
            return False
        view, offset = view[count:], offset + count
    return True


def write_at(handle: int, array: NDArray[Any], offset: int) -> None:
    """Write a contiguous array to a place in a file, which other threads may write too."""
    view = _bytes_of(array)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count


def write_all(handle: int, array: NDArray[Any]) -> None:
    """Write a contiguous array where the file stands."""
    view = _bytes_of(array)
    while view:
        view = view[os.write(handle, view) :]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)
