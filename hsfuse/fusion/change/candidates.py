"""What the candidates for a local correction would do to each fine pixel, along one direction of the bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.pattern import ScenePattern
from hsfuse.fusion.change.response import Response

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
        Factor of each band of the guide, and constant, shape (candidate, msi band + 1, row, col) on the coarse grid.
    pattern
        That of the scene along the direction, its last candidate, and its amplitude, shape (row, col).
    """

    direction: FloatArray
    factors: FloatCube
    pattern: tuple[ScenePattern, FloatCube]

    @property
    def count(self) -> int:
        """How many candidates there are."""
        return len(self.factors) + 1

    def part(self, where: tuple[slice, slice]) -> Candidates:
        """Return those of a part of the coarse grid."""
        return Candidates(self.direction, self.factors[:, :, *where], (self.pattern[0], self.pattern[1][where]))

    def amounts(self, guide: FloatCube, response: Response) -> FloatCube:
        """Return what each adds to a guide (msi band, row, col), shape (candidate, row, col) on the fine grid."""
        out = np.zeros((self.count, *guide.shape[1:]), np.float32)
        for amount, coefficients in zip(out, self.factors, strict=False):
            add_affine(amount, response.up_single(coefficients), guide)
        pattern, amplitude = self.pattern
        images = (response.up_single(image[None])[0] for image in (np.ones_like(amplitude), amplitude))
        pattern.add_to(out[-1:], guide, *images)
        return out
