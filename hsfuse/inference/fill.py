"""Stand-ins for missing samples, so that methods never see NaN.

What is filled here is masked again in the output: the stand-ins only keep interpolation kernels and networks from
spreading nodata into neighbouring valid pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.parallel import do_all, side_by_side, threads_for

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_BANDS, _MOST_THREADS, _WORTH_THREADS = 16, 4, 4_000_000
"""Bands at a time, and samples that are worth threads."""


def fill_missing(cube: FloatCube) -> tuple[FloatCube, BoolArray]:
    """Replace what is no number in place: along the spectrum where a pixel has other bands, else from a neighbour.

    Parameters
    ----------
    cube
        Shape (band, row, col).

    Returns
    -------
    (cube, missing)
        The same array without NaN and infinite values, and where it had them, shape (band, row, col).
    """
    missing = np.empty(cube.shape, bool)
    parts = [slice(first, first + _BANDS) for first in range(0, len(cube), _BANDS)]
    threads = threads_for(_MOST_THREADS) if cube.size >= _WORTH_THREADS else 1

    def look(bands: slice) -> tuple[BoolArray, BoolArray]:
        """Note what is missing; return where all and where some of the bands are."""
        np.isfinite(cube[bands], out=missing[bands])
        np.logical_not(missing[bands], out=missing[bands])
        return np.asarray(np.all(missing[bands], axis=0)), np.asarray(np.any(missing[bands], axis=0))

    every, some = zip(*side_by_side(look, parts, threads), strict=True)
    empty, partial = np.logical_and.reduce(every), np.logical_or.reduce(some)
    if not partial.any():
        return cube, missing
    if empty.all():
        cube[:] = 0.0
        return cube, missing
    partial &= ~empty
    if partial.any():
        cube[:, partial] = _along_spectrum(cube[:, partial])
    if empty.any():
        _, (rows, cols) = ndimage.distance_transform_edt(empty, return_indices=True)
        to, at = np.nonzero(empty), (rows[empty], cols[empty])

        def fill(bands: slice) -> None:
            for plane in cube[bands]:
                plane[to] = plane[at]

        do_all(fill, parts, threads)
    return cube, missing


def _along_spectrum(spectra: FloatCube) -> FloatCube:
    """Interpolate NaN linearly over the band axis, shape (band, pixel); ends take the nearest band."""
    count = spectra.shape[0]
    known = np.isfinite(spectra)
    index = np.arange(count)[:, None]
    below = np.maximum.accumulate(np.where(known, index, -1), axis=0)
    above = np.minimum.accumulate(np.where(known, index, count)[::-1], axis=0)[::-1]
    below = np.where(below < 0, above, below)
    above = np.where(above >= count, below, above)
    low, high = np.take_along_axis(spectra, below, 0), np.take_along_axis(spectra, above, 0)
    span = np.maximum(above - below, 1)
    return np.asarray(low + (high - low) * ((index - below) / span), dtype=np.float32)
