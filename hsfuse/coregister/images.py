"""Images on which two products are compared: the target as it is, the reference as the target would see it.

The target is never interpolated. The reference is low-passed with the target's point spread function and sampled
twice as fine as the target, so that it can be evaluated at any displaced position without the position showing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid, Slice2D

FloatCube = NDArray[np.float32]

OVERSAMPLING = 2
"""Reference samples per target pixel along each axis."""
EVALUATION_VARIANCE_PX2 = 1.0 / 3.0 / OVERSAMPLING**2
"""Variance (in target pixels) of the cubic B-spline that evaluates the reference: part of the blur it needs."""


@dataclass(frozen=True)
class MatchImages:
    """What the matching works on.

    Attributes
    ----------
    target
        Shape (channel, row, col) on ``grid``, NaN where a pixel must not be used.
    reference
        Shape (channel, row, col), NaN likewise, on ``grid.pad(margin_px).nested(OVERSAMPLING)``. It holds the
        target's channels first, in the same order, and may hold further ones.
    grid
        The target's claimed grid.
    margin_px
        How many target pixels the reference reaches beyond the target.
    """

    target: FloatCube
    reference: FloatCube
    grid: Grid
    margin_px: int

    @property
    def reference_grid(self) -> Grid:
        """Grid of :attr:`reference`."""
        return reference_grid(self.grid, self.margin_px)


def reference_grid(grid: Grid, margin_px: int) -> Grid:
    """The finer grid around a target's grid on which the reference is prepared."""
    return grid.crop(Slice2D(-margin_px, grid.height + margin_px, -margin_px, grid.width + margin_px)).nested(
        OVERSAMPLING
    )
