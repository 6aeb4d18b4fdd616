"""Parallax of relief: a displacement proportional to the height of the ground.

A sensor that looks aside sees a point that lies ``h`` metres above the surface which the geometry assumes ``h tan(z)``
metres away from it, where ``z`` is its view zenith angle (relative to the reference's). With a DEM two numbers are
unknown instead of a field: the displacement along rows and columns per metre of height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.coregister.models import FloatArray
from hsfuse.coregister.trend import usual_plane

_USUAL_SLOPE_PER_M = 0.6
"""Usual displacement per metre of height in metres: the tangent of a wide view angle."""
_LEAST_SPREAD_M = 5.0


@dataclass(frozen=True)
class Relief:
    """An affine field and a multiple of the height; a trend (see trend.py).

    Attributes
    ----------
    height_m
        Height of the ground at the target's pixels over its mean, shape (row, col).
    pixel_m
        Side of a pixel.
    """

    height_m: NDArray[np.float32]
    pixel_m: float

    @classmethod
    def of(cls, height_m: NDArray[np.float32], pixel_m: float) -> Relief | None:
        """From heights with gaps (NaN), which take the nearest height; None where the ground is flat."""
        known = np.isfinite(height_m)
        if not known.any():
            return None
        if not known.all():
            nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
            height_m = height_m[tuple(nearest)]
        height_m = height_m - np.float32(height_m.mean())
        return cls(height_m, pixel_m) if float(height_m.std()) > _LEAST_SPREAD_M else None

    @property
    def name(self) -> str:
        """Name for reports."""
        return "relief"

    @property
    def _unit_m(self) -> float:
        return float(self.height_m.std())

    def design(self, position: FloatArray) -> FloatArray:
        """1, row, column and height over its standard deviation at positions, shape (point, 4)."""
        rows, cols = self.height_m.shape
        u, v = 2.0 * position[:, 0] / rows - 1.0, 2.0 * position[:, 1] / cols - 1.0
        height = ndimage.map_coordinates(self.height_m, position.T, order=1, mode="nearest") / self._unit_m
        return np.stack([np.ones(len(position)), u, v, height], axis=1)

    def precision(self) -> FloatArray:
        """Any shift, slopes of the usual size, parallax of the usual size."""
        out = np.zeros((4, 4))
        out[:3, :3] = usual_plane(*self.height_m.shape)
        out[3, 3] = (_USUAL_SLOPE_PER_M * self._unit_m / self.pixel_m) ** -2.0
        return out

    def slope(self, coefficients: FloatArray) -> tuple[float, float]:
        """Displacement (row, col) in metres per metre of height from the trend's coefficients (4, 2)."""
        down, right = coefficients[3] / self._unit_m * self.pixel_m
        return float(down), float(right)
