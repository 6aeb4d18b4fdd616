"""White noise that belongs to places: equal seeds give every pixel of the scene the same numbers, in any tiling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROW, _COL = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)


def pixel_noise(seed: int, stream: int, row0: int, col0: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Draw standard normal noise for a block of pixels.

    Parameters
    ----------
    seed
        Of the scene.
    stream
        Which draw; streams are independent of each other.
    row0, col0
        Place of the block in the scene, pixels; may be negative.
    shape
        (channel, row, col).

    Returns
    -------
    numpy.ndarray
        Float32; what a pixel gets depends on seed, stream, channel and its place alone.

    References
    ----------
    G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the mixing);
    G. E. P. Box, M. E. Muller, A note on the generation of random normal deviates, 1958.
    """
    channels, rows, cols = shape
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + np.uint64(stream) * _GOLDEN)
        row = np.arange(row0, row0 + rows, dtype=np.int64).astype(np.uint64) * _ROW
        col = np.arange(col0, col0 + cols, dtype=np.int64).astype(np.uint64) * _COL
        place = _mixed(start + row)[:, None] ^ _mixed(start ^ col)[None, :]
        channel = _mixed(start + (np.arange(channels, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
        keys = _mixed(place[None] + channel[:, None, None])
        first = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        second = (_mixed(keys + _GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second), dtype=np.float32)


def _mixed(value: UInt) -> UInt:
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return np.asarray(value ^ (value >> np.uint64(31)), np.uint64)
