"""Small scenes with known content for the tests of the report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

CENTRE_NM = np.concatenate(
    [np.arange(430.0, 900.0, 20.0), np.arange(990.0, 1090.0, 20.0), np.arange(1180.0, 1330.0, 25.0),
     np.arange(1500.0, 1780.0, 25.0), np.arange(2010.0, 2340.0, 25.0)]
)  # fmt: skip
WATER_WINDOWS = ((1340.0, 1490.0), (1790.0, 2000.0))


def spectrum(kind: str) -> NDArray[np.float64]:
    """A spectrum that everybody would call by its name."""
    c = CENTRE_NM
    if kind == "vegetation":
        edge = 0.04 + 0.42 / (1 + np.exp(-(c - 718) / 14)) + 0.04 * np.exp(-(((c - 555) / 35) ** 2))
        return edge * np.where(c > 1300, np.where(c > 1900, 0.2, 0.5), 1.0)
    if kind == "soil":
        return 0.06 + 0.36 * (1 - np.exp(-(c - 380) / 700)) - 0.04 * np.exp(-(((c - 2205) / 40) ** 2))
    if kind == "water":
        return 0.05 * np.exp(-(((c - 530) / 110) ** 2)) + 0.004
    if kind == "built-up":
        return np.full(c.shape, 0.22)
    raise ValueError(kind)


PATCHES = {"vegetation": (8, 10), "soil": (8, 40), "water": (38, 10), "built-up": (38, 40)}
"""Upper-left corner of each patch of 12 x 12 pixels in :func:`patch_scene`."""


def patch_scene(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One even patch of each surface in a noisy mixture, shape (band, 60, 64), and its valid mask."""
    rng = np.random.default_rng(seed)
    library = np.stack([spectrum(kind) for kind in PATCHES])
    shares = rng.dirichlet(np.full(4, 0.7), size=(60, 64))
    cube = np.einsum("rck,kb->brc", shares, library)
    for number, (row, col) in enumerate(PATCHES.values()):
        cube[:, row : row + 12, col : col + 12] = library[number][:, None, None]
    cube += rng.normal(0.0, 0.001, cube.shape)
    return cube.astype(np.float32), np.ones((60, 64), dtype=bool)


class WavyField:
    """A displacement field: one shift and a wave."""

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return 80.0 + 10.0 * np.sin(np.asarray(y) / 3000.0), -40.0 + 8.0 * np.cos(np.asarray(x) / 3000.0)


class ConstantField:
    """One shift."""

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.full(np.shape(x), 30.0), np.zeros(np.shape(x))


def coregistration(verdict: str = "accepted", field: object | None = None, count: int = 120) -> SimpleNamespace:
    """A co-registration result with points around a known field, every tenth one wild and rejected."""
    rng = np.random.default_rng(5)
    field = field or WavyField()
    x, y = rng.uniform(500_000, 530_000, count), rng.uniform(4_990_000, 5_020_000, count)
    dx, dy = field.at(x, y)
    dx, dy = dx + rng.normal(0, 2.0, count), dy + rng.normal(0, 2.0, count)
    wild = np.arange(count) % 10 == 0
    dx[wild] += 90.0
    held = (np.arange(count) % 5 == 1) & ~wild
    check = SimpleNamespace(x=x[held], y=y[held], dx_m=dx[held], dy_m=dy[held])
    tie = SimpleNamespace(x=x[~held], y=y[~held], dx_m=dx[~held], dy_m=dy[~held], used=~wild[~held])
    fx, fy = field.at(check.x, check.y)
    error = np.hypot(check.dx_m - fx, check.dy_m - fy)
    return SimpleNamespace(
        verdict=verdict, reason="", field=field, tie_points=tie, check_points=check,
        rmse_m=float(np.sqrt(np.mean(error**2))) if held.any() else float("nan"),
        p95_m=float(np.percentile(error, 95)) if held.any() else float("nan"),
        ce90_m=float(np.percentile(error, 90)) if held.any() else float("nan"),
        bias_m=0.3, count=int(held.sum()), global_shift_m=(80.0, -40.0), peak_ratio=4.2,
    )  # fmt: skip
