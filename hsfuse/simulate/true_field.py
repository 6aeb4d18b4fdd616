"""The known position error of a simulated product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.grid import Grid


@dataclass(frozen=True)
class HeightMap:
    """Heights in metres on a grid, shape (row, col)."""

    grid: Grid
    height_m: NDArray[np.float32]

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float64]:
        """Heights at map positions of any (equal) shape, linear between pixels."""
        position = np.stack(self.grid.rowcol(x, y))
        return np.asarray(ndimage.map_coordinates(self.height_m.astype(np.float64), position, order=1, mode="nearest"))


@dataclass(frozen=True)
class TrueField:
    """Shift, rotation and a smooth wave: what must be added to claimed positions to get true ones, in metres.

    Attributes
    ----------
    centre_x_m, centre_y_m
        Point about which the product is rotated.
    shift_x_m, shift_y_m
        Shift at that point, but for the wave.
    rotation_deg
        Rotation of true against claimed positions, counter-clockwise.
    wave_m
        Amplitude of the wave in each axis.
    wavelength_m
        Its length in x and in y displacement.
    heading_rad, phase_rad
        Direction along which the wave runs, and its phase, for x and for y displacement.
    jitter_m, jitter_length_m, jitter_phase_rad
        Amplitude, length along the track, and phases (x, y) of the attitude's jitter.
    track_deg
        Direction of the track, clockwise from south.
    parallax
        Displacement east and north per metre of height.
    relief
        Heights; None: flat.
    """

    centre_x_m: float = 0.0
    centre_y_m: float = 0.0
    shift_x_m: float = 0.0
    shift_y_m: float = 0.0
    rotation_deg: float = 0.0
    wave_m: float = 0.0
    wavelength_m: tuple[float, float] = (10_000.0, 10_000.0)
    heading_rad: tuple[float, float] = (0.0, 0.0)
    phase_rad: tuple[float, float] = (0.0, 0.0)
    jitter_m: float = 0.0
    jitter_length_m: float = 4_500.0
    jitter_phase_rad: tuple[float, float] = (0.0, 0.0)
    track_deg: float = 0.0
    parallax: tuple[float, float] = (0.0, 0.0)
    relief: HeightMap | None = None

    @classmethod
    def for_grid(
        cls,
        grid: Grid,
        *,
        shift_m: tuple[float, float],
        rotation_deg: float,
        wave_m: float,
        wavelength_m: float,
        rng: np.random.Generator,
    ) -> Self:
        """Make the field of a product.

        A scene shorter than two thirds of the wavelength gets a shorter and, in proportion, flatter wave: the
        distortion per kilometre stays that of a full scene.
        """
        box = grid.bounds
        extent = max(box.right - box.left, box.top - box.bottom)
        shrink = min(1.0, 1.5 * extent / wavelength_m)
        lengths = wavelength_m * shrink * rng.uniform(0.9, 1.1, 2)
        heading, phase = rng.uniform(0.0, 2.0 * np.pi, 2), rng.uniform(0.0, 2.0 * np.pi, 2)
        return cls(
            (box.left + box.right) / 2.0,
            (box.bottom + box.top) / 2.0,
            float(shift_m[0]),
            float(shift_m[1]),
            float(rotation_deg),
            float(wave_m * shrink),
            (float(lengths[0]), float(lengths[1])),
            (float(heading[0]), float(heading[1])),
            (float(phase[0]), float(phase[1])),
        )

    def at(
        self, x: NDArray[np.floating] | float, y: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Displacement (dx_m, dy_m) at claimed map positions of any (equal) shape."""
        east = np.asarray(x, dtype=np.float64) - self.centre_x_m
        north = np.asarray(y, dtype=np.float64) - self.centre_y_m
        turn = np.deg2rad(self.rotation_deg)
        cosine, sine = np.cos(turn) - 1.0, np.sin(turn)
        dx = self.shift_x_m + cosine * east - sine * north
        dy = self.shift_y_m + sine * east + cosine * north
        waves = []
        for length, heading, phase in zip(self.wavelength_m, self.heading_rad, self.phase_rad, strict=True):
            along = np.cos(heading) * east + np.sin(heading) * north
            waves.append(self.wave_m * np.sin(2.0 * np.pi * along / length + phase))
        dx, dy = dx + waves[0], dy + waves[1]
        if self.jitter_m:
            track = np.deg2rad(self.track_deg)
            along = 2.0 * np.pi * (np.sin(track) * east + np.cos(track) * north) / self.jitter_length_m
            dx = dx + self.jitter_m * np.sin(along + self.jitter_phase_rad[0])
            dy = dy + self.jitter_m * np.sin(along + self.jitter_phase_rad[1])
        if self.relief is not None:
            height = self.relief.at(np.asarray(x) + self.shift_x_m, np.asarray(y) + self.shift_y_m)
            dx, dy = dx + self.parallax[0] * height, dy + self.parallax[1] * height
        return dx, dy

    def over(self, grid: Grid, height_m: NDArray[np.float32] | None) -> Self:
        """The same over ground of these heights, shape (row, col), in the field's reference system."""
        return self if height_m is None else replace(self, relief=HeightMap(grid, height_m))

    def largest_m(self, grid: Grid) -> float:
        """Largest displacement of either axis over a grid."""
        rows, cols = np.linspace(0, grid.height - 1, 9), np.linspace(0, grid.width - 1, 9)
        x, y = grid.xy(*np.meshgrid(rows, cols, indexing="ij"))
        return float(max(np.abs(part).max() for part in self.at(x, y))) + self.wave_m + self.jitter_m

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; heights are kept elsewhere (see :meth:`over`)."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "relief"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_json`."""
        plain: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**plain)
