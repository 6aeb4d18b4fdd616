"""Hyperspectral cubes on their own: what opens them, and the part of them without gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers import open_hsi
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import ArrayProduct

_NPZ_HINT = "An .npz needs 'cube' (band, row, col) and 'wavelength_nm'."


def open_cube(path: Path, *, cut_nm: float, declared: Declarations = NOTHING) -> HyperspectralProduct:
    """Open a cube: any raster with wavelengths, a PRISMA product, or ``.npz`` with ``cube`` and ``wavelength_nm``.

    Raises
    ------
    InputError
        The file is missing or no cube.
    """
    if path.suffix.lower() != ".npz":
        return open_hsi(path, cut_nm=cut_nm, declared=declared)
    try:
        with np.load(path, allow_pickle=False) as content:
            cube = np.asarray(content["cube"])
            wavelength = np.asarray(content["wavelength_nm"], dtype=np.float64)
            fwhm = np.asarray(content["fwhm_nm"], dtype=np.float64) if "fwhm_nm" in content else None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no usable cube ({error}).", hint=_NPZ_HINT) from error
    if cube.ndim != 3 or cube.shape[0] != wavelength.size:
        raise InputError(
            f"{path}: 'cube' has the shape {cube.shape}, which does not fit {wavelength.size} wavelengths.",
            hint=_NPZ_HINT,
        )
    values = cube.astype(np.float32)
    if np.nanmax(values) > 3.0:
        # Integers are reflectance x 10000 everywhere in this field; radiance is only ever used as a texture.
        values *= np.float32(1e-4)
    grid = Grid.from_origin(CRS.from_epsg(32631), 500_000.0, 5_000_000.0, 30.0, *values.shape[1:])
    return ArrayProduct(values, grid, BandTable.make(wavelength, fwhm))


def largest_rectangle(valid: NDArray[np.bool_]) -> Slice2D:
    """Find the largest rectangle of True pixels; empty where there is none."""
    best = Slice2D(0, 0, 0, 0)
    heights = np.zeros(valid.shape[1], dtype=np.int64)
    for row in range(valid.shape[0]):
        heights = np.where(valid[row], heights + 1, 0)
        stack: list[tuple[int, int]] = []  # (first column, height), heights ascending
        for col, height in enumerate([*heights.tolist(), 0]):
            start = col
            while stack and stack[-1][1] >= height:
                start, tall = stack.pop()
                if tall * (col - start) > best.shape[0] * best.shape[1]:
                    best = Slice2D(row + 1 - tall, row + 1, start, col)
            stack.append((start, height))
    return best


def solid_window(valid: NDArray[np.bool_], largest: int) -> Slice2D:
    """Return the middle of the largest solid rectangle, its sides at most ``largest``; empty where there is none.

    Images of more than about a thousand pixels a side are searched on a coarser raster.
    """
    step = max(1, -(-max(valid.shape) // 1000))
    rows, cols = (size // step * step for size in valid.shape)
    cells = valid[:rows, :cols].reshape(rows // step, step, cols // step, step)
    found = largest_rectangle(np.all(cells, axis=(1, 3)))
    height, width = (min(size * step, largest) for size in found.shape)
    top = found.row0 * step + (found.shape[0] * step - height) // 2
    left = found.col0 * step + (found.shape[1] * step - width) // 2
    return Slice2D(top, top + height, left, left + width)
