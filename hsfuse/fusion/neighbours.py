"""What a pixel's four neighbours say of it, edges reflected."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def neighbour_mean(image: NDArray[Float]) -> NDArray[Float]:
    """Mean of the four neighbours of every pixel of (..., row, col)."""
    wide = np.pad(image, (*((0, 0) for _ in image.shape[:-2]), (1, 1), (1, 1)), mode="reflect")
    around = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
    around += wide[..., 1:-1, :-2]
    around += wide[..., 1:-1, 2:]
    around *= image.dtype.type(0.25)
    mean: NDArray[Float] = around
    return mean


def over_neighbours(image: NDArray[Float]) -> NDArray[Float]:
    """Difference of every pixel of (..., row, col) and the mean of its four neighbours."""
    around = neighbour_mean(image)
    found: NDArray[Float] = np.subtract(image, around, out=around)
    return found
