"""An archive of several dates of one ground, each with clouds of its own and its own brightness."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.sentinel2 import write_safe

NOON = datetime(2024, 6, 21, 10, 20, 21, 24000, tzinfo=UTC)
CLOUD = 0.7
SCL_CLEAR, SCL_CLOUD = 4, 9


def bands_of(numbers: Sequence[int], height: int, width: int, share: float = 0.5, parts: int = 8) -> NDArray[np.bool_]:
    """Half of an image in diagonal stripes, in another place for each number, shape (number, row, col) at 20 m."""
    rows, cols = np.mgrid[:height, :width]
    place = 1.5 * (rows / height + cols / width)
    return np.stack([((place - number / parts) % 1.0) < share for number in numbers])


def write_date(
    folder: Path, grid: Grid, ground: NDArray[np.float32], cloud: NDArray[np.bool_], days: float, *,
    gain: float = 1.0, offset: float = 0.0, noise: float = 0.0, sun_zenith_deg: float = 30.0, hours: float = 0.0,
    spacecraft: str = "Sentinel-2A", level: str = "L2A", outside: NDArray[np.bool_] | None = None,
) -> Path:  # fmt: skip
    """Write one date: ``cloud`` (and ``outside``, where there is no data) at 20 m."""
    fine = np.kron(cloud, np.ones((2, 2), bool))[: grid.height, : grid.width]
    rng = np.random.default_rng(abs(int(10 * days)))
    planes = {}
    for order, band in enumerate(BANDS_10M):
        plane = ground[order] * gain + offset + noise * rng.standard_normal(grid.shape)
        plane = np.where(fine, CLOUD + 0.02 * rng.standard_normal(grid.shape), plane)
        if outside is not None:
            plane[np.kron(outside, np.ones((2, 2), bool))[: grid.height, : grid.width]] = np.nan
        planes[band] = plane
    scl = np.where(cloud, SCL_CLOUD, SCL_CLEAR).astype(np.uint8)
    if outside is not None:
        scl[outside] = 0
    return write_safe(
        folder, grid=grid, reflectance=planes, scl=scl, sensing_time=NOON + timedelta(days=days, hours=hours),
        sun_zenith_deg=sun_zenith_deg, spacecraft=spacecraft, level=level,
    )  # fmt: skip


def read_ground(product: Path) -> tuple[Grid, NDArray[np.float32]]:
    """Grid and 10 m bands of a product."""
    with Sentinel2Product(product) as opened:
        return opened.grid, opened.read(opened.grid.full)


def clear_pair(folder: Path) -> SimulatedPair:
    """A small pair of one day without clouds, whose ground further dates show."""
    return simulate_pair(
        folder, size_px=(100, 96), seed=5, shift_m=(118.0, -76.0), vnir_bands=30, swir_bands=30, pan=False,
        s2_bands="10m", s2_start=NOON,
    )  # fmt: skip
