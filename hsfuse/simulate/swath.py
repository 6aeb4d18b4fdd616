"""Images as they are taken: rows and columns along and across the flight, not along the axes of a map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsfuse.grid import Grid, Slice2D


@dataclass(frozen=True)
class SwathGrid:
    """Pixel centres of a swath on a map; the part of :class:`~hsfuse.grid.Grid` that a sensor needs.

    Attributes
    ----------
    crs
        Projected reference system, metres.
    x0, y0
        Centre of the first pixel.
    down, right
        Step (x, y) from a row to the next, and from a column to the next.
    height, width
        Shape in pixels.
    """

    crs: CRS
    x0: float
    y0: float
    down: tuple[float, float]
    right: tuple[float, float]
    height: int
    width: int

    @classmethod
    def within(
        cls, grid: Grid, angle_deg: float, sides_px: tuple[float, float], *, lines: Literal["along", "across"]
    ) -> SwathGrid:
        """Lay a swath into the middle of a map grid.

        Parameters
        ----------
        grid
            Map grid whose pixel size the swath has.
        angle_deg
            Rotation of the flight direction, as in :class:`~hsfuse.simulate.hyperspectral_sensor.Footprint`.
        sides_px
            Length along and across the flight direction, in pixels.
        lines
            ``along``: a row is one line of the sensor, the next one is flown later (EMIT). ``across``: a row is one
            detector element, from the eastern end of the line on, and columns follow the flight (PRISMA before L2D).
        """
        turn, size = np.deg2rad(angle_deg), grid.pixel_m
        along = (size * float(np.sin(turn)), -size * float(np.cos(turn)))
        across = (size * float(np.cos(turn)), size * float(np.sin(turn)))
        length, breadth = (int(side) for side in sides_px)
        if lines == "along":
            down, right, shape = along, across, (length, breadth)
        else:
            down, right, shape = (-across[0], -across[1]), along, (breadth, length)
        x, y = grid.xy((grid.height - 1) / 2.0, (grid.width - 1) / 2.0)
        half = (shape[0] - 1) / 2.0, (shape[1] - 1) / 2.0
        x0 = float(x) - half[0] * down[0] - half[1] * right[0]
        y0 = float(y) - half[0] * down[1] - half[1] * right[1]
        return cls(grid.crs, x0, y0, down, right, *shape)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.height, self.width

    @property
    def pixel_m(self) -> float:
        """Pixel size in metres."""
        return float(np.hypot(*self.right))

    def xy(
        self, row: NDArray[np.floating] | float, col: NDArray[np.floating] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map coordinates of pixel centres."""
        row, col = np.asarray(row, dtype=np.float64), np.asarray(col, dtype=np.float64)
        x = self.x0 + row * self.down[0] + col * self.right[0]
        y = self.y0 + row * self.down[1] + col * self.right[1]
        return x, y

    def row_blocks(self, rows: int) -> Iterator[Slice2D]:
        """Cut the swath into full-width blocks of at most ``rows`` rows, from the top."""
        for row0 in range(0, self.height, rows):
            yield Slice2D(row0, min(row0 + rows, self.height), 0, self.width)


@dataclass(frozen=True)
class WholeSwath:
    """The imaged area of a swath: all of it.

    Attributes
    ----------
    shape
        (rows, cols) of the swath.
    lines
        As in :meth:`SwathGrid.within`.
    """

    shape: tuple[int, int]
    lines: Literal["along", "across"]

    @property
    def sides(self) -> tuple[float, float]:
        """Length along and across the flight direction, in pixels."""
        rows, cols = map(float, self.shape)
        return (rows, cols) if self.lines == "along" else (cols, rows)

    def across(self, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Detector position (0 at one end of the swath, in pixels) and footprint mask of some rows."""
        height, width = self.shape
        down = (np.arange(height)[rows] + 0.5)[:, None]
        right = (np.arange(width) + 0.5)[None, :]
        position = np.broadcast_to(right if self.lines == "along" else down, (down.shape[0], width))
        return position.astype(np.float64), np.ones(position.shape, np.bool_)
