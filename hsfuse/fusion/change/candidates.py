"""What the candidates for a local correction would do to each fine pixel, along one direction of the bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.pattern import ScenePattern
from hsfuse.fusion.change.response import Response
from hsfuse.grid import Slice2D
from hsfuse.spilled import SpilledImages

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]


def add_affine(out: FloatCube, coefficients: FloatCube, guide: FloatCube) -> None:
    """Add a weighted sum of a guide's bands and a constant to an image (row, col), in place.

    ``coefficients`` are the bands' weights and, last, the constant, shape (msi band + 1, row, col).
    """
    *factors, constant = coefficients
    out += constant
    for factor, band in zip(factors, guide, strict=True):
        out += factor * band


@dataclass(frozen=True)
class Candidates:
    """What every candidate of a correction adds to a guide along the direction in which the chosen one adds most.

    Attributes
    ----------
    direction
        Of differences in units of the noise's standard deviation, of length 1, shape (msi band,).
    factors
        Factor of each band of the guide, and constant, of one candidate after the other, shape
        (candidate * (msi band + 1), row, col) on the coarse grid.
    pattern
        That of the scene along the direction, its last candidate, and its amplitude, shape (row, col).
    """

    direction: FloatArray
    factors: SpilledImages
    pattern: tuple[ScenePattern, FloatCube]

    @property
    def count(self) -> int:
        """How many candidates there are."""
        return self.factors.shape[0] // (len(self.direction) + 1) + 1

    def amounts(self, guide: FloatCube, where: tuple[slice, slice], response: Response) -> FloatCube:
        """Return what each adds to the guide of a part of the coarse grid, shape (msi band, row, col) on the fine grid.

        Shape (candidate, row, col) on the fine grid.
        """
        out = np.zeros((self.count, *guide.shape[1:]), np.float32)
        factors = self.factors.read(Slice2D.of(*where))
        for amount, coefficients in zip(out, factors.reshape(-1, len(guide) + 1, *factors.shape[1:]), strict=False):
            add_affine(amount, response.up_single(coefficients), guide)
        pattern, amplitude = self.pattern[0], self.pattern[1][where]
        images = (response.up_single(image[None])[0] for image in (np.ones_like(amplitude), amplitude))
        pattern.add_to(out[-1:], guide, *images)
        return out
