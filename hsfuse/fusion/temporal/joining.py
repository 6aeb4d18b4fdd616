"""A partner joined radiometrically to the guide: a band matrix and an offset that change smoothly over the scene.

Dates differ by haze, sun and phenology, which change bands together. The guide is regressed on all bands of the
partner in Gaussian windows over cells of pixels, held to the regression of the whole scene where a window has little
contrast; ground that changed loses its weight in a few rounds. Means over 2 x 2 pixels serve: they hold less noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.degrade import Psf
from hsfuse.fusion.change.response import Response

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

OVERVIEW_PX = 2
"""Side of the pixels that a join is found on, in those of the guide."""
CELL_PX = 16
"""Side of a cell in pixels of the guide."""
_CELL = CELL_PX // OVERVIEW_PX
_SIGMA_CELLS = 2.0
_RIDGE_PIXELS = 16.0
"""Pseudo-pixels, alike those of the scene, that hold a window to the scene's regression."""
_RIDGE_SCENE = 1e-4
"""The same, of pixels with the bands' mean squares alone, that hold the scene's regression to the partner as it is."""
_SCENE_ROUNDS, _ROUNDS = 10, 2
"""Of weights by the regression of the scene, which much change does not carry away, and then by that of windows."""
_SCENE_PIXELS = 100_000
_ROWS = 16
"""Rows of cells at a time."""
_OUTLIER = 3.0
"""Squared distance, in units of the typical one, at which a pixel has a quarter of its weight."""
_AROUND_PX = 1.0
_MAD_TO_SIGMA = 1.4826
_LEAST_SIGMA = 1e-6
_NOTHING = 1e-12
"""Sum of squares that keeps the regression on a band of zeros solvable."""
_MARGIN_CELLS = 2
"""Cells around a block that the interpolation of coefficients looks at."""


@dataclass(frozen=True)
class Join:
    """Coefficients of a join.

    Attributes
    ----------
    scene
        Of the whole scene, shape (band + 1, band): the guide's bands by those of the partner and 1.
    cells
        The same by cell, shape (band + 1, band, row, col).
    """

    scene: FloatArray
    cells: FloatArray

    @classmethod
    def find(cls, guide: FloatCube, partner: FloatCube, clear: BoolArray) -> Join:
        """Regress one image on another.

        Parameters
        ----------
        guide, partner
            Means over pixels of :data:`OVERVIEW_PX`, shape (band, row, col), finite.
        clear
            Where both show the ground, shape (row, col).
        """
        target, design = (_in_whole_cells(image) for image in (guide, partner))
        shown = _in_whole_cells(clear[None].astype(np.float32), constant=True)[0]
        known = shown > 0
        scene = _scene_regression(design[:, known], target[:, known])
        told = (np.tensordot(scene[:-1].T, design, axes=1) + scene[-1][:, None, None]).astype(np.float32)
        cells = np.zeros(0)
        for step in range(_ROUNDS):
            if step:
                for top in range(0, told.shape[1], _ROWS * _CELL):
                    strip = slice(top, top + _ROWS * _CELL)
                    told[:, strip] = _joined(cells, design[:, strip], top, _CELL)
            cells = _CellSums.of(design, target, shown * _trust(target - told, known)).of_windows(scene)
        return cls(scene, cells)

    def apply(self, partner: FloatCube, first_row: int) -> FloatCube:
        """Join full-width rows of the partner, shape (band, row, col), the first of which is a whole cell's first."""
        return _joined(self.cells, partner, first_row, CELL_PX)


def _joined(cells: FloatArray, partner: FloatCube, first_row: int, cell_px: int) -> FloatCube:
    """Apply coefficients of cells to rows, the first of which is a cell's first."""
    rows = cells.shape[2]
    first = first_row // cell_px
    last = min(-(-(first_row + partner.shape[1]) // cell_px), rows)
    low, high = max(first - _MARGIN_CELLS, 0), min(last + _MARGIN_CELLS, rows)
    above = (first - low) * cell_px
    part = (slice(None), slice(above, above + partner.shape[1]), slice(partner.shape[2]))
    found = np.empty((cells.shape[1], *partner.shape[1:]), np.float32)
    # Band by band: the coefficients of all pixels are many times the images.
    for band, image in enumerate(found):
        fine = Response(cell_px, Psf(1.0)).up_single(cells[:, band, low:high])[part]
        image[...] = fine[-1]
        for by_band, measured in zip(fine[:-1], partner, strict=True):
            image += by_band * measured
    return found


def _scene_regression(design: FloatCube, target: FloatCube) -> FloatArray:
    """Regress bands of samples (band, sample), with weights by all bands: shape (band + 1, band)."""
    step = max(design.shape[1] // _SCENE_PIXELS, 1)
    x, y = design[:, ::step].astype(np.float64), target[:, ::step].astype(np.float64)
    x = np.concatenate([x, np.ones((1, x.shape[1]))])
    weight = np.ones(x.shape[1])
    # Bands in other units, whole numbers for example, are as they are up to the ratio of their mean squares.
    power, wanted = ((image**2).mean(axis=1) for image in (x[: len(y)], y))
    as_it_is: FloatArray = np.zeros((len(x), len(y)))
    np.fill_diagonal(as_it_is, np.sqrt(np.divide(wanted, power, out=np.zeros_like(power), where=power > 0.0)))
    found: FloatArray = as_it_is
    for _ in range(_SCENE_ROUNDS):
        gram = (x * weight) @ x.T + _NOTHING * np.eye(len(x))
        held = _RIDGE_SCENE * np.diag(np.diag(gram)) / max(float(weight.sum()), 1.0)
        found = np.asarray(np.linalg.solve(gram + held, (x * weight) @ y.T + held @ as_it_is), np.float64)
        left = np.abs(y - found.T @ x)
        sigma = np.maximum(_MAD_TO_SIGMA * np.median(left, axis=1, keepdims=True), _LEAST_SIGMA)
        weight = 1.0 / (1.0 + ((left / sigma) ** 2).mean(axis=0) / _OUTLIER) ** 2
    return np.asarray(found)


def _in_whole_cells(image: FloatCube, *, constant: bool = False) -> FloatCube:
    padding = ((0, 0), *((0, -size % _CELL) for size in image.shape[1:]))
    return np.pad(image, padding) if constant else np.pad(image, padding, mode="edge")


def _trust(left: FloatCube, shown: BoolArray) -> FloatCube:
    """Weight of pixels by their residuals in all bands, shape (row, col)."""
    sigma = np.maximum(_MAD_TO_SIGMA * np.median(np.abs(left[:, shown]), axis=1), _LEAST_SIGMA)
    distance = ((left / sigma[:, None, None]) ** 2).mean(axis=0) * shown
    around = gaussian_filter(distance, _AROUND_PX, mode="nearest")
    trusted: FloatCube = (1.0 / (1.0 + around / _OUTLIER) ** 2).astype(np.float32)
    return trusted


@dataclass(frozen=True)
class _CellSums:
    """Sums over cells: products of the partner's bands and 1, and of these with the guide's bands.

    Shapes (band + 1, band + 1, row, col) and (band + 1, band, row, col).
    """

    gram: FloatCube
    cross: FloatCube

    @classmethod
    def of(cls, design: FloatCube, target: FloatCube, weight: FloatCube) -> _CellSums:
        bands, height, width = design.shape
        cols = width // _CELL

        def in_cells(image: FloatCube) -> FloatCube:
            """Reorder (band, row, col) to (cell, pixel, band)."""
            split = image.reshape(len(image), -1, _CELL, cols, _CELL).transpose(1, 3, 2, 4, 0)
            return np.ascontiguousarray(split).reshape(-1, _CELL**2, len(image))

        parts = []
        for top in range(0, height, _ROWS * _CELL):
            rows = slice(top, top + _ROWS * _CELL)
            ones = np.ones((1, *weight[rows].shape), np.float32)
            x = in_cells(np.concatenate([design[:, rows], ones]))
            both = np.concatenate([x, in_cells(target[:, rows])], axis=2)
            x *= in_cells(weight[None, rows])
            parts.append(np.matmul(x.transpose(0, 2, 1), both))
        sums = np.concatenate(parts).transpose(1, 2, 0).reshape(bands + 1, -1, height // _CELL, cols)
        return cls(sums[:, : bands + 1], sums[:, bands + 1 :])

    def of_windows(self, scene: FloatArray) -> FloatArray:
        """Regress in windows over cells: shape (band + 1, band, row, col)."""
        whole = self.gram.sum(axis=(2, 3), dtype=np.float64)
        held = _RIDGE_PIXELS * whole / max(float(whole[-1, -1]), 1.0) + 1e-12 * np.eye(len(whole))
        gram, cross = (
            gaussian_filter(
                sums.astype(np.float64), (0, 0, _SIGMA_CELLS, _SIGMA_CELLS), mode="constant"
            ).reshape(*sums.shape[:2], -1).transpose(2, 0, 1)
            for sums in (self.gram, self.cross)
        )  # fmt: skip
        found = np.linalg.solve(gram + held, cross + held @ scene)
        return np.asarray(np.moveaxis(found, 0, -1).reshape(*scene.shape, *self.gram.shape[2:]))
