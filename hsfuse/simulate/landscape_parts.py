"""Parts of a simulated landscape: settlements, bent lines such as rivers and roads, what covers part of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.simulate.texture import FloatArray


@dataclass(frozen=True)
class Town:
    """A settlement: where, how large, which way its streets run, how much of it is industry."""

    x_m: float
    y_m: float
    radius_m: float
    angle_rad: float
    industrial: bool
    salt: int


@dataclass
class Overlay:
    """What covers part of each pixel; the strongest cover wins."""

    share: FloatArray
    member: NDArray[np.uint8]
    label: NDArray[np.uint8]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Overlay:
        """Nothing covered."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))

    def add(self, share: NDArray[np.floating], member: NDArray[np.uint8], label: int) -> None:
        """Cover ``share`` of each pixel with an endmember where that is more than what covers it so far."""
        wins = share > self.share
        self.share = np.where(wins, share, self.share).astype(np.float32)
        self.member = np.where(wins, member, self.member)
        self.label = np.where(wins, np.uint8(label), self.label)

    def clear(self, where: NDArray[np.bool_]) -> None:
        """Take all cover away."""
        self.share = np.where(where, np.float32(0.0), self.share)


@dataclass(frozen=True)
class BentLine:
    """A straight line across the scene that a smooth field bends into a river or road."""

    cosine: float
    sine: float
    offset_m: float

    @classmethod
    def random(cls, rng: np.random.Generator, width_m: float, height_m: float, *, inside: float) -> BentLine:
        """Draw a line through the inner part of the scene (``inside``: half its share along each axis)."""
        angle = rng.uniform(0.0, np.pi)
        x = width_m * (0.5 + rng.uniform(-inside, inside))
        y = height_m * (0.5 + rng.uniform(-inside, inside))
        return cls(float(np.cos(angle)), float(np.sin(angle)), float(np.cos(angle) * x + np.sin(angle) * y))

    def distance(self, x: FloatArray, y: FloatArray, bend: FloatArray, reach_m: float, pixel_m: float) -> FloatArray:
        """Distance of each position to the line (m), to first order."""
        level = self.cosine * x + self.sine * y - self.offset_m + reach_m * bend
        if min(level.shape) < 2:
            return np.abs(level).astype(np.float32)
        down, right = np.gradient(level, pixel_m)
        # Level set over gradient.
        return np.asarray(np.abs(level) / np.maximum(np.hypot(down, right), 0.2), dtype=np.float32)


def place_towns(rng: np.random.Generator, width_m: float, height_m: float) -> list[Town]:
    """Place a main town, its industrial estate, and villages at a plausible density."""
    extent = min(width_m, height_m)

    def town(x: float, y: float, radius: float, industrial: bool) -> Town:
        return Town(x, y, radius, float(rng.uniform(0.0, np.pi)), industrial, int(rng.integers(1 << 31)))

    radius = float(np.clip(0.17 * extent, 150.0, 2400.0))
    x, y = float(width_m * rng.uniform(0.3, 0.7)), float(height_m * rng.uniform(0.3, 0.7))
    towns = [town(x, y, radius, False)]
    away = rng.uniform(0.0, 2.0 * np.pi)
    towns.append(town(x + 1.1 * radius * np.cos(away), y + 1.1 * radius * np.sin(away), 0.45 * radius, True))
    for _ in range(min(int(width_m * height_m / 18e6), 110)):
        place = (float(rng.uniform(0.0, width_m)), float(rng.uniform(0.0, height_m)))
        towns.append(town(*place, float(rng.uniform(180.0, 480.0)), bool(rng.random() < 0.08)))
    return towns
